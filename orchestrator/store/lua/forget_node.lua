-- Forget a node that is gone.
--
-- KEYS  1 its Celery queue  2 the bindings of that queue
-- ARGV  1 node id  2 1 = for good: its queue goes too  3 1 = only while it is silent
-- Returns 1 when it is forgotten, 0 when it lives
--
-- nodes set, nodes:draining set, node:{id} hash, node:{id}:short, node:{id}:failures string, node:{id}:mail list, pool:wake:{node} list
-- deadlines zset
-- include: deadlines
local node, key = ARGV[1], 'node:' .. ARGV[1]
-- The node may be back: then its queue has tasks.
-- guard: forget-queue
if ARGV[3] == '1' and redis.call('EXISTS', key) == 1 then return 0 end
redis.call('SREM', 'nodes', node)
redis.call('SREM', 'nodes:draining', node)
clear_deadlines(node, 'drain')
redis.call('DEL', key, key .. ':short', key .. ':failures', key .. ':mail', 'pool:wake:' .. node)
if ARGV[2] == '1' then redis.call('DEL', KEYS[1], KEYS[2]) end
return 1
