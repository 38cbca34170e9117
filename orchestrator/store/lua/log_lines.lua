-- Read the lines of an agent's log after the n-th that it ever had.
--
-- KEYS  1 agent:{id}:logs  2 agent:{id}:logs:count
-- ARGV  1 n, 0 = from the first that is kept
-- Returns {lines it ever had, lines after the n-th that are kept, oldest first}; the difference is what was dropped
--
-- agent:{id}:logs list, agent:{id}:logs:count string
local length = redis.call('LLEN', KEYS[1])
local count = math.max(length, tonumber(redis.call('GET', KEYS[2]) or 0))
local after = tonumber(ARGV[1])
-- Redis has lost the log since, and a new one has begun.
if after > count then after = 0 end
if after == count then return {count, {}} end
return {count, redis.call('LRANGE', KEYS[1], after - count, -1)}
