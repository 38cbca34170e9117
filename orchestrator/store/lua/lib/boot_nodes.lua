-- Which nodes can boot an agent.
-- include: nodes

-- A node whose agents have failed to boot this often in a row boots none while other nodes can.
local NODE_FAILURES = 3

local function low_on_memory(node) return redis.call('EXISTS', 'node:' .. node.id .. ':short') == 1 end
local function boot_failures(id) return tonumber(redis.call('GET', 'node:' .. id .. ':failures') or 0) end

-- The nodes that take sessions and have an agent host, memory and capacity. `me`: the node that asks, which has host and
-- memory also before its record says so.
local function nodes_able_to_boot(me)
  local able, sound, known = {}, {}, false
  local function add(node)
    able[#able + 1] = node
    if boot_failures(node.id) < NODE_FAILURES then sound[#sound + 1] = node end
  end
  for _, node in ipairs(nodes_in_service()) do
    known = known or node.id == me
    if (node.id == me or (node.host and not low_on_memory(node))) and has_capacity(node) then add(node) end
  end
  if me and not known and redis.call('SISMEMBER', 'nodes:draining', me) == 0 then add({id = me}) end
  -- guard: sound-nodes
  return #sound > 0 and sound or able
end
