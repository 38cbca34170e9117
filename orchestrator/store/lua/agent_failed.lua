-- An agent reports that it cannot continue its session; its process ends by itself.
--
-- KEYS  none
-- ARGV  1 agent id  2 the reason (JSON of code, params, text)
-- Returns what became of the session: '' (not its own any more) | replaced | waiting | error
--
-- agent:{id} hash, session:{id} hash, session:unbound zset, pool:ready set, deadlines zset
-- include: agents, busy_agent, reasons, records, takeover, wind_down
local id, cause = ARGV[1], cjson.decode(ARGV[2])
if not BUSY[agent_state(id)] then return '' end
move_agent(id, 'stopping', reason_fields('reason', cause))
allow_wind_down(id)
return replace_agent(get('agent:' .. id, 'sessionId'), id, cause)
