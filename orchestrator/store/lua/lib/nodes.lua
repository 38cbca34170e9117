-- The nodes that live and take sessions, and how full they are.
-- include: late_node, policy
local IN_SERVICE, DRAINING
local function draining_nodes()
  DRAINING = DRAINING or redis.call('SMEMBERS', 'nodes:draining')
  return DRAINING
end

-- Ordered by name: {id, late, host, max}. `late`: it has missed two beats and may have vanished; `host`: it has an agent
-- host; `max`: its sessions at once, nil where they are not bounded.
local function nodes_in_service()
  if IN_SERVICE then return IN_SERVICE end
  IN_SERVICE = {}
  local ids, draining = redis.call('SMEMBERS', 'nodes'), {}
  table.sort(ids)
  for _, id in ipairs(draining_nodes()) do draining[id] = true end
  for _, id in ipairs(ids) do
    local ttl = redis.call('PTTL', 'node:' .. id)
    if ttl ~= -2 and not draining[id] then
      local fields = redis.call('HMGET', 'node:' .. id, 'host', 'sessions')
      local max = tonumber(fields[2] or 0)
      IN_SERVICE[#IN_SERVICE + 1] = {
        id = id, late = ttl >= 0 and ttl < LATE_NODE_MS, host = fields[1] == '1', max = max > 0 and max or nil}
    end
  end
  return IN_SERVICE
end

local function any_node_in_service() return #nodes_in_service() > 0 end

-- The sessions of a node as a share of its bound: 1 is full.
local function load_of(node)
  return redis.call('SCARD', 'node:' .. node.id .. ':busy') / (node.max or policy('max_sessions'))
end
-- `load`: its load, where the caller knows it.
-- guard: node-capacity
local function has_capacity(node, load) return not node.max or (load or load_of(node)) < 1 end
