-- Count a duration in its histogram, and keep it among the recent samples. A duration is nil when the record that held
-- its start is lost: then nothing is counted.
-- include: clock, histogram_bounds, recent_samples
local function observe(name, ms)
  if not ms then return end
  local bucket = 'inf'
  for _, bound in ipairs(HISTOGRAM_BOUNDS[name]) do
    if ms <= bound then
      bucket = tostring(bound)
      break
    end
  end
  redis.call('HINCRBY', 'histogram:' .. name, bucket, 1)
  redis.call('HINCRBY', 'histogram:' .. name, 'us', math.floor(ms * 1000 + 0.5))
  local recent = 'recent:' .. string.match(name, '^[^:]+')
  redis.call('LPUSH', recent, string.format('%.3f %d', ms, NOW))
  redis.call('LTRIM', recent, 0, RECENT_SAMPLES - 1)
end
