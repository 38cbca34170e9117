-- Keep one turn of a session's conversation, for the agent that may have to take over.
--
-- KEYS  session:{id}:conversation
-- ARGV  1 session id  2 id of the agent  3 the turn, a JSON object  4 turns to keep
-- Returns 1, or 0 when the session is not that agent's (any more)
--
-- session:{id}:conversation  list  the newest turns, oldest first; gone at the end of the session
-- include: live_session, records
if get('session:' .. ARGV[1], 'agentId') ~= ARGV[2] or not LIVE_SESSION[session_state(ARGV[1])] then return 0 end
-- A report whose answer was lost comes again.
-- guard: turn-once
if redis.call('LRANGE', KEYS[1], -1, -1)[1] == ARGV[3] then return 1 end
redis.call('RPUSH', KEYS[1], ARGV[3])
redis.call('LTRIM', KEYS[1], -ARGV[4], -1)
return 1
