-- An agent is warm. It serves the session that has waited longest, or joins the pool, or leaves when the pool is full.
--
-- KEYS  none
-- ARGV  1 agent id  2 pid  3… pids of its ancestors
-- Returns {the session it is bound to, or '', why it is refused, or ''}
--
-- agent:{id} hash, agent:{id}:pid string, agent:{id}:boot list, agent:{id}:inbox list, deadlines zset
-- pool:boot_error string, pool:breaker hash, pool:ready set, pool:starting set, pool:stale set, pool:stats hash
-- session:unbound zset, session:{id} hash, session:{id}:events stream, nodes set, nodes:draining set, node:{id} hash
-- node:{id}:warm set, node:{id}:busy set, node:{id}:short string, pool:wake:{node} list
-- include: agents, boot_nodes, boot_phases, clock, count_by_node, histograms, identity, illegal_move, pool_shares
-- include: reason_drained, reason_newer_code, reason_pool_full, reason_rebalanced, records, retire, returning, wake
-- defer: exit_agent
local id = ARGV[1]
local state = agent_state(id)
if state ~= 'starting' then illegal_move('agent', id, state, 'ready') end
-- The agent host decides which process is the agent: that one, with its descendants, is checked, stopped and measured.
local lineage = table.concat(ARGV, ',', 2)
local started = redis.call('HMGET', 'agent:' .. id, 'pid', 'startTicks')
-- guard: host-process-id
if started[1] and started[2] then
  local wrong, words = contradiction(started[1], lineage)
  -- guard: agent-process
  if wrong then
    exit_agent(id, wrong)
    return {'', words}
  end
else
  -- The host's report is on its way: record_spawn.lua compares.
  redis.call('HSET', 'agent:' .. id, 'pid', ARGV[2], 'lineage', lineage)
  redis.call('SET', 'agent:' .. id .. ':pid', ARGV[2])
end
redis.call('HSET', 'agent:' .. id, 'readyAt', NOW, 'lastBeat', NOW)
redis.call('RPUSH', 'agent:' .. id .. ':boot', 'ready')
redis.call('EXPIRE', 'agent:' .. id .. ':boot', 60)
redis.call('DEL', 'pool:boot_error', 'pool:boot_error:agent', 'pool:breaker')
local node = get('agent:' .. id, 'node')
if node then redis.call('DEL', 'node:' .. node .. ':failures') end
redis.call('SET', 'pool:proven', NOW)

-- Mean boot time over about the last ten boots, from which the wait of a start without a warm agent is estimated.
local since_spawn = ms_since(get('agent:' .. id, 'spawnedAt'))
observe('boot', since_spawn)
local spawned = NOW - (since_spawn or 0)
local mean = tonumber(get('pool:stats', 'boot_ms_mean') or (NOW - spawned))
redis.call('HSET', 'pool:stats', 'boot_ms_mean', string.format('%.1f', mean * 0.9 + (NOW - spawned) * 0.1))
redis.call('HINCRBY', 'pool:stats', 'total_spawned', 1)
local nodes = nodes_able_to_boot(node)
local want, warm = pool_shares(nodes), count_by_node('pool:ready')
-- Other nodes were held back while boots failed.
if missing_agents(nodes) > 0 or (warm[node] or 0) + 1 < (want[node] or 0) then wake() end

append_boot_phase(id, 'warm')
local waiting = serve_waiting(id, node, 0)
if waiting then return {waiting, ''} end
if node and redis.call('SISMEMBER', 'nodes:draining', node) == 1 then
  wake()
  retire(id, DRAINED)
  return {'', ''}
end
-- More agents are warm than wanted: the pool was made smaller, another agent served the session that this one was for, or
-- a new node takes over its share.
local target = redis.call('EXISTS', 'pool:target') == 1 and warm_target(nodes) or math.huge
local stale = redis.call('SMEMBERS', 'pool:stale')
if redis.call('SCARD', 'pool:ready') >= target then
  local old, why = nil, NEWER_CODE
  for _, candidate in ipairs(stale) do
    if candidate ~= id and agent_state(candidate) == 'ready' then old = candidate end
  end
  local outdated = redis.call('SISMEMBER', 'pool:stale', id) == 1
  if not old and not outdated and (warm[node] or 0) < (want[node] or 0) then
    old, why = agent_above_share(want), REBALANCED
  end
  if not old or outdated then
    retire(id, POOL_FULL)
    return {'', ''}
  end
  retire(old, why)
end
move_agent(id, 'ready')
return {'', ''}
