-- Pauses after 1, 2, 3 … boot failures in a row double up to this.
-- include: boot_nodes, breaker_failures, clock, closing, deadlines, reasons, records, wake
local MAX_PAUSE_MS = 60000
-- The count of a node's failures is forgotten this long after the last one.
local NODE_FAILURES_SECONDS = 60

-- A boot has failed by the agent's own fault: the next attempt waits longer, and the fifth failure opens the breaker. While
-- agents of another node boot, only this node is held back.
local function record_boot_failure(agent, cause, failed)
  cause = with_param(cause, 'agentId', agent)
  redis.call('HINCRBY', 'pool:stats', 'total_boot_failures', 1)
  redis.call('SET', 'pool:boot_error', cause.text, 'EX', 300)
  redis.call('SET', 'pool:boot_error:agent', agent, 'EX', 300)
  if failed then
    redis.call('INCR', 'node:' .. failed .. ':failures')
    redis.call('EXPIRE', 'node:' .. failed .. ':failures', NODE_FAILURES_SECONDS)
    for _, node in ipairs(nodes_able_to_boot()) do
      if node.id ~= failed and boot_failures(node.id) == 0 then return wake() end
    end
  end
  local failures = redis.call('HINCRBY', 'pool:breaker', 'failures', 1)
  local pause = math.min(MAX_PAUSE_MS, 1000 * 2 ^ (failures - 1)) * (0.75 + (NOW_US % 1000) / 2000)
  redis.call('DEL', 'pool:proven')
  redis.call('HSET', 'pool:breaker', reason_fields('cause', cause, 'agent', agent, 'nextAt', math.floor(NOW + pause)))
  set_deadline('refill', '', math.ceil(pause) + 1)
  -- guard: breaker
  if failures < BREAKER_FAILURES then return end
  if not get('pool:breaker', 'openedAt') then redis.call('HSET', 'pool:breaker', 'openedAt', NOW) end
  for _, session in ipairs(redis.call('ZRANGE', 'session:unbound', 0, -1)) do
    close_session(session, 'error', as_failure(cause))
  end
end
