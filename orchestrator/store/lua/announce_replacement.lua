-- Announce one more agent for a session whose last one failed to boot.
--
-- KEYS  none
-- ARGV  1 session id  2 new agent id
-- Returns announced | over (the session waits no more) | open (the breaker is open: nothing is booted)
--
-- session:{id} hash, session:{id}:events stream, session:unbound zset, pool:breaker hash, pool:boot_error string, agents set, pool:starting set, agent:{id} hash
-- include: agents, breaker, events, failed_boot, reasons
if not redis.call('ZSCORE', 'session:unbound', ARGV[1]) then return 'over' end
if breaker_open() then return 'open' end
announce_agent(ARGV[2], ARGV[1])
local cause = last_failed_boot()
if cause then
  append_event(ARGV[1], 'boot_retried', 'agentId', ARGV[2], reason_fields('cause', cause, 'failedAgentId', cause.params.agentId or ''))
else
  append_event(ARGV[1], 'boot_retried', 'agentId', ARGV[2])
end
return 'announced'
