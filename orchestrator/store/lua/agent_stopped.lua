-- An agent's process must stop while it serves a session. Nothing has failed: an agent of another node continues
-- the call, or the call is over.
--
-- KEYS  none
-- ARGV  1 agent id  2 the reason (JSON of code, params, text)
-- Returns what became of the session: '' (not its own any more) | replaced | waiting | error | ended
--
-- agent:{id} hash, session:{id} hash, session:unbound zset, pool:ready set, deadlines zset
-- include: agents, busy_agent, closing, handover, live_session, policy, reason_handed_over, reasons, records, takeover
local id, cause = ARGV[1], cjson.decode(ARGV[2])
if not BUSY[agent_state(id)] then return '' end
local fields = redis.call('HMGET', 'agent:' .. id, 'sessionId', 'node')
local session, node = fields[1], fields[2] or nil
move_agent(id, 'stopping', reason_fields('reason', cause))
if policy('takeover') ~= 0 and can_serve_one_more(node) then return replace_agent(session, id, HANDED_OVER) end
if get('session:' .. session, 'agentId') ~= id or not LIVE_SESSION[session_state(session)] then return '' end
end_session(session, 'ended', cause)
return 'ended'
