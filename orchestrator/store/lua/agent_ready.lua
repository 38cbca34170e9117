-- An agent is warm. It serves the session that has waited longest, or joins the pool, or goes where the pool is full.
--
-- KEYS  none
-- ARGV  1 agent id  2 pid
-- Returns the session it is bound to, or ''
--
-- agent:{id} hash, agent:{id}:pid string, agent:{id}:boot list, agent:{id}:inbox list
-- pool:boot_error string, pool:ready set, pool:starting set, pool:stats hash, session:queue zset, session:{id} hash
local id = ARGV[1]
local state = agent_state(id)
if state ~= 'starting' then refuse('agent', id, state, 'ready') end
redis.call('HSET', 'agent:' .. id, 'pid', ARGV[2], 'readyAt', NOW, 'lastBeat', NOW)
redis.call('SET', 'agent:' .. id .. ':pid', ARGV[2])
redis.call('RPUSH', 'agent:' .. id .. ':boot', 'ready')
redis.call('EXPIRE', 'agent:' .. id .. ':boot', 60)
redis.call('DEL', 'pool:boot_error')

-- Mean boot time over about the last ten boots: the wait that a miss is told.
local spawned = tonumber(redis.call('HGET', 'agent:' .. id, 'spawnedAt') or NOW)
local mean = tonumber(redis.call('HGET', 'pool:stats', 'boot_ms_mean') or (NOW - spawned))
redis.call('HSET', 'pool:stats', 'boot_ms_mean', string.format('%.1f', mean * 0.9 + (NOW - spawned) * 0.1))
redis.call('HINCRBY', 'pool:stats', 'total_spawned', 1)

while true do
  local waiting = redis.call('ZPOPMIN', 'session:queue')[1]
  if not waiting then break end
  if session_state(waiting) == 'starting' then
    bind(waiting, id, 0)
    return waiting
  end
end
-- More are warm than wanted: the pool was made smaller, or another agent served the session this one was for.
local target = tonumber(redis.call('GET', 'pool:target') or 0)
if redis.call('SCARD', 'pool:ready') >= target then
  dismiss(id, 'pool_full')
  return ''
end
move_agent(id, 'ready')
return ''
