-- Announce as many agents as the pool lacks: target + sessions in line - warm - booting.
-- Level-triggered and atomic: two refills at once announce what is missing once.
--
-- KEYS  none
-- ARGV  1..n candidate agent ids; no more than these are announced
-- Returns the ids that were announced
--
-- pool:target string, pool:ready set, pool:starting set, session:queue zset, agents set, agent:{id} hash
redis.call('DEL', 'pool:refill')
local missing = tonumber(redis.call('GET', 'pool:target') or 0) + redis.call('ZCARD', 'session:queue')
  - redis.call('SCARD', 'pool:ready') - redis.call('SCARD', 'pool:starting')
local announced = {}
for i = 1, math.min(missing, #ARGV) do
  announce_agent(ARGV[i])
  announced[i] = ARGV[i]
end
return announced
