-- Record the process that the agent host has started for an agent. If another process has reported as the agent, it
-- leaves, and its session gets another agent.
--
-- KEYS  agent:{id}, agent:{id}:pid
-- ARGV  1 pid  2 start ticks  3 boot id  4 node id  5 agent id
-- Returns 1, or 0 when the record is gone
--
-- agent:{id}      hash    pid, startTicks, bootId, node, lineage
-- agent:{id}:pid  string  the pid
-- session:unbound  zset      session:{id}:events  stream      session:{id}  hash  agentPid
-- pool:boot_error  string      pool:breaker  hash      pool:ready  set      deadlines  zset
-- include: agents, boot_failure, boot_phases, busy_agent, identity, reasons, records, takeover
local fields = redis.call('HMGET', KEYS[1], 'state', 'lineage', 'sessionId')
local state, lineage, session = fields[1], fields[2], fields[3]
if not state then return 0 end
redis.call('HSET', KEYS[1], 'pid', ARGV[1], 'startTicks', ARGV[2], 'bootId', ARGV[3], 'node', ARGV[4])
if state == 'starting' then append_boot_phase(ARGV[5], 'process') end
if state ~= 'exited' then redis.call('SET', KEYS[2], ARGV[1]) end
if not lineage then return 1 end
redis.call('HDEL', KEYS[1], 'lineage')
if session and get('session:' .. session, 'agentId') == ARGV[5] then
  redis.call('HSET', 'session:' .. session, 'agentPid', ARGV[1])
end
local wrong = contradiction(ARGV[1], lineage)
if wrong and (state == 'ready' or BUSY[state]) then
  record_boot_failure(ARGV[5], wrong, ARGV[4])
  move_agent(ARGV[5], 'stopping', reason_fields('reason', wrong))
  if session then replace_agent(session, ARGV[5], wrong) end
end
return 1
