-- An agent reports that its session is over. Idempotent; a session that is another agent's stays as it is.
--
-- KEYS  none
-- ARGV  1 session id  2 ended | error  3 the reason (JSON of code, params, text)  4 agent id
-- Returns {1 when this call ended it, status}, or nothing for an unknown session
--
-- session:{id} hash, and what end_session.lua touches
-- include: ending, records
local state = session_state(ARGV[1])
if not state then return false end
if get('session:' .. ARGV[1], 'agentId') ~= ARGV[4] then return {0, state} end
return end_if_live(ARGV[1], ARGV[2], cjson.decode(ARGV[3]))
