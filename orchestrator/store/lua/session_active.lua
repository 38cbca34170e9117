-- User and agent are both in the room.
--
-- KEYS  none
-- ARGV  1 session id  2 id of the agent that says so
-- Returns 1, or 0 when it was active before
--
-- session:{id} hash (activeAt), session:{state} set, session:{id}:events stream
if redis.call('HGET', 'session:' .. ARGV[1], 'agentId') ~= ARGV[2] then
  refuse('session', ARGV[1], 'other agent', 'active')
end
if session_state(ARGV[1]) == 'active' then return 0 end
move_session(ARGV[1], 'active', 'activeAt', NOW)
return 1
