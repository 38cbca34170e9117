-- Announce the agents that a node must boot, for its share of the pool and for waiting sessions. Level-triggered and
-- atomic: two refills at once announce the missing agents once. The other nodes are woken for their shares. While boots
-- fail, one boot at a time is tried, after a growing pause; before the first success, a few.
--
-- KEYS  none
-- ARGV  1 node id  2 '' or why no agent can be started there  3..n candidate agent ids; no more than these are announced
-- Returns the ids that were announced
--
-- nodes set, nodes:draining set, node:{id} hash, node:{id}:short string, node:{id}:busy set, pool:wake:{node} list
-- pool:target string, pool:ready set, pool:starting set, pool:stale set, pool:breaker hash, pool:proven string, session:unbound zset
-- agents set, agent:{id} hash, deadlines zset
-- include: agents, boot_nodes, clock, count_by_node, deadlines, memory, policy, pool_shares, records, wake
local UNPROVEN = 4
require_redis_memory()
redis.call('DEL', 'pool:refill')
local me, max_boots = ARGV[1], #ARGV - 2
local next_at = tonumber(get('pool:breaker', 'nextAt'))
local booting = redis.call('SCARD', 'pool:starting')
-- The pause applies to all nodes: waking one would make it wake this one.
-- guard: held-back
if next_at and NOW < next_at then
  set_deadline('refill', '', next_at - NOW + 1)
  return {}
end
if next_at and booting > 0 then return {} end
if redis.call('EXISTS', 'pool:proven') == 0 then max_boots = math.min(max_boots, UNPROVEN - booting) end
if max_boots <= 0 then return {} end
local nodes = nodes_able_to_boot(ARGV[2] == '' and me or nil)
local want, ready = pool_shares(nodes), count_by_node('pool:ready')
local starting, stale = count_by_node('pool:starting'), count_by_node('pool:stale')
local own, others = nil, 0
for _, node in ipairs(nodes) do
  local id = node.id
  local lack = want[id] - (ready[id] or 0) - (starting[id] or 0) + (stale[id] or 0)
  if id == me then
    own = lack
  elseif lack > 0 then
    others = others + lack
    wake(id)
  end
end
if ARGV[2] ~= '' or not own then return {} end
-- Only this node's agents fail to boot: try one at a time.
if not next_at and boot_failures(me) > 0 then max_boots = math.min(max_boots, 1 - (starting[me] or 0)) end
-- Sessions that wait without an agent on its way are served by the first node that checks.
-- guard: own-share
local missing = math.min(math.max(own, missing_agents(nodes) - others), max_boots)
if missing <= 0 then return {} end
if next_at then
  redis.call('HSET', 'pool:breaker', 'nextAt', NOW + policy_ms('boot_timeout_seconds'))
  set_deadline('refill', '', policy_ms('boot_timeout_seconds') + 1)
  missing = 1
end
local announced = {}
for i = 1, missing do
  announced[i] = ARGV[i + 2]
  announce_agent(announced[i], nil, me)
end
return announced
