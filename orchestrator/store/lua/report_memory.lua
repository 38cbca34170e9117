-- Report whether a node is short of memory, and with that whether all nodes are.
--
-- KEYS  none
-- ARGV  1 node id  2 '' or what is short of memory: no agent is to be started there  3 seconds for which that holds unless
--       said again
-- Returns 1
--
-- node:{id}:short string, pool:memory_low string, nodes set, nodes:draining set, node:{id} hash
-- include: nodes
local me, shortage, hold = ARGV[1], ARGV[2], ARGV[3]
local function set_or_delete(key, value)
  if value ~= '' then redis.call('SET', key, value, 'EX', hold) else redis.call('DEL', key) end
end
set_or_delete('node:' .. me .. ':short', shortage)
-- While a node with capacity can boot agents, no session waits for another's memory. Where no node is in service, this one's
-- memory counts.
local low = #nodes_in_service() == 0 and shortage or ''
for _, node in ipairs(nodes_in_service()) do
  if has_capacity(node) then
    low = redis.call('GET', 'node:' .. node.id .. ':short') or ''
    if low == '' then break end
  end
end
set_or_delete('pool:memory_low', low)
return 1
