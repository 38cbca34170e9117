-- End a session and tell its agent to leave. Idempotent.
--
-- KEYS  none
-- ARGV  1 session id  2 ended | error  3 reason  4 '' or the agent that says so: it ends its own session only
-- Returns {1 when this call ended it, status}, or nothing for an unknown session
--
-- session:{id} hash, session:{id}:payload string, session:{id}:events stream, session:user:{user} string
-- session:{state} set, session:queued zset, session:unbound zset, agent:{id} hash, agent:{id}:inbox list
-- pool:stats hash, deadlines zset
-- include: closing, live_session, records
local id = ARGV[1]
local state = session_state(id)
if not state then return false end
local ended = 0
local own = ARGV[4] == '' or get('session:' .. id, 'agentId') == ARGV[4]
if own and LIVE_SESSION[state] then
  end_session(id, ARGV[2], ARGV[3])
  ended = 1
end
return {ended, session_state(id)}
