-- Take a node out of service: its warm agents leave, its calls continue until the drain is over. A repeated drain may shorten the
-- time, not extend it.
--
-- KEYS  none
-- ARGV  1 node id  2 ms until its calls are over
-- Returns nothing
--
-- nodes set, nodes:draining set, node:{id} hash, pool:ready set, session:{state} set, session:{id} hash
-- session:unbound zset, session:queued zset, agent:{id} hash, deadlines zset
-- include: closing, deadlines, nodes, policy, reason_drained, reason_node_draining, records, retire, wake
local node, window = ARGV[1], tonumber(ARGV[2])
local first = redis.call('SADD', 'nodes:draining', node)
for _, id in ipairs(redis.call('SMEMBERS', 'pool:ready')) do
  if get('agent:' .. id, 'node') == node then retire(id, DRAINED) end
end
if any_node_in_service() then
  wake()
else
  -- No node is left for the waiting sessions; a call that waits for its takeover ends too.
  for _, name in ipairs({'session:unbound', 'session:queued'}) do
    for _, id in ipairs(redis.call('ZRANGE', name, 0, -1)) do
      close_session(id, 'error', NODE_DRAINING)
    end
  end
end
local goodbye = math.min(window, policy_ms('goodbye_seconds'))
if first == 1 or redis.call('ZADD', 'deadlines', 'XX', 'LT', 'CH', counted_from() + window - goodbye, 'drain|' .. node) == 1 then
  -- HSET would create a record that never expires.
  if redis.call('EXISTS', 'node:' .. node) == 1 then redis.call('HSET', 'node:' .. node, 'goodbyeMs', goodbye) end
  set_deadline('drain', node, window - goodbye)
end
