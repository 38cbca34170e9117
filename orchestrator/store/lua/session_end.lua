-- End a session and tell its agent to leave. Idempotent.
--
-- KEYS  none
-- ARGV  1 session id  2 ended | error  3 reason  4 seconds to keep the record
-- Returns {1 when this call ended it, status, agent id, node, room}, or nothing for an unknown session
--
-- session:{id} hash, session:{id}:payload string, session:{id}:events stream, session:user:{user} string
-- session:{state} set, session:queue zset, agent:{id} hash, agent:{id}:inbox list, pool:stats hash
local id = ARGV[1]
local state = session_state(id)
if not state then return false end
local ended = 0
if next(SESSION_MOVES[state]) then
  end_session(id, ARGV[2], ARGV[3], ARGV[4])
  ended = 1
end
local fields = redis.call('HMGET', 'session:' .. id, 'status', 'agentId', 'node', 'roomName')
return {ended, fields[1], fields[2] or '', fields[3] or '', fields[4]}
