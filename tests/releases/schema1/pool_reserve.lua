-- Announce as many agents as the pool lacks. Level-triggered and atomic: two refills at once announce what is missing
-- once. While boots fail, one at a time is tried, after a pause that grows; before one has worked, a few.
--
-- KEYS  none
-- ARGV  1 '' or why no agent can be started here  2..n candidate agent ids; no more than these are announced
-- Returns the ids that were announced
--
-- pool:target string, pool:ready set, pool:starting set, pool:stale set, pool:breaker hash, pool:proven string, session:unbound zset
-- agents set, agent:{id} hash, deadlines zset
local UNPROVEN = 4
redis.call('DEL', 'pool:refill')
local missing = math.min(missing_agents(), #ARGV - 1)
if ARGV[1] ~= '' or missing <= 0 then return {} end
local next_at = get('pool:breaker', 'nextAt')
if next_at then
  if NOW < tonumber(next_at) then
    expect('refill', '', tonumber(next_at) - NOW + 1)
    return {}
  end
  if redis.call('SCARD', 'pool:starting') > 0 then return {} end
  redis.call('HSET', 'pool:breaker', 'nextAt', NOW + (policy('bootMs') or 20000))
  expect('refill', '', (policy('bootMs') or 20000) + 1)
  missing = 1
end
if redis.call('EXISTS', 'pool:proven') == 0 then missing = math.min(missing, UNPROVEN - redis.call('SCARD', 'pool:starting')) end
local announced = {}
for i = 1, missing do
  announce_agent(ARGV[i + 1])
  announced[i] = ARGV[i + 1]
end
return announced
