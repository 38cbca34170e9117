-- How sessions ended, counted by the minute: outcomes:{n} of the n-th one.
-- include: clock

-- The error rate counts the sessions that ended within these minutes.
local OUTCOME_MINUTES, MINUTE_MS = 5, 60000
local function outcomes_key(minutes_ago) return 'outcomes:' .. (math.floor(NOW / MINUTE_MS) - minutes_ago) end
local function count_outcome(status)
  redis.call('HINCRBY', outcomes_key(0), status, 1)
  redis.call('EXPIRE', outcomes_key(0), (OUTCOME_MINUTES + 1) * 60)
end
