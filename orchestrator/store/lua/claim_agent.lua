-- Claim an announced agent for a node, once: a redelivered spawn finds it claimed.
--
-- KEYS  agent:{id}
-- ARGV  1 agent id  2 node id  3 1 when any node may boot it: then the one with the smallest load is to
-- Returns {claimed | taken | gone | elsewhere, '' or the node that is to boot it}
--
-- agent:{id}  hash  gets node and spawnedAt       deadlines  zset       pool:breaker  hash
-- session:unbound  zset       session:{id}:events  stream       nodes, nodes:draining  set       node:{id}  hash
-- node:{id}:busy  set       node:{id}:short  string       pool:starting  set
-- include: boot_nodes, boot_phases, breaker, clock, count_by_node, deadlines, nodes, placement, policy
-- include: reason_breaker_open, reason_no_capacity, reasons, records, session_id_start
-- defer: exit_agent
local id, me = ARGV[1], ARGV[2]
local fields = redis.call('HMGET', KEYS[1], 'state', 'node', 'spawnedAt')
if fields[1] ~= 'starting' then return {'gone', ''} end
if fields[3] or (fields[2] and fields[2] ~= me) then return {'taken', ''} end
-- Only the breaker's own probe boots while it is open.
if breaker_open() and string.sub(id, 1, #SESSION_ID_START) == SESSION_ID_START then
  exit_agent(id, reason(BREAKER_OPEN, {detail = get('pool:breaker', 'cause')}))
  return {'gone', ''}
end
if ARGV[3] == '1' then
  local booting, best, lowest = count_by_node('pool:starting'), nil, math.huge
  for _, node in ipairs(nodes_able_to_boot()) do
    local load = load_of(node) + (booting[node.id] or 0) / (node.max or policy('max_sessions'))
    -- On a tie the node that holds the task keeps it.
    if load < lowest or (load == lowest and node.id == me) then best, lowest = node.id, load end
  end
  -- guard: boot-elsewhere
  if best and best ~= me then return {'elsewhere', best} end
  if not best and not may_serve_on(me) then
    exit_agent(id, NO_CAPACITY)
    return {'gone', ''}
  end
end
redis.call('HSET', KEYS[1], 'node', me, 'spawnedAt', NOW)
set_deadline('boot', id, policy_ms('boot_timeout_seconds'))
append_boot_phase(id, 'claimed')
return {'claimed', ''}
