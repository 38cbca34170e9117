-- The time of this run of a script, by Redis's clock: the only one that all nodes share.
local TIME = redis.call('TIME')
-- Microseconds: the queue is ordered by them.
local NOW_US = tonumber(TIME[1]) * 1000000 + tonumber(TIME[2])
-- Milliseconds.
local NOW = math.floor(NOW_US / 1000)

-- Milliseconds since a recorded time; nil without one.
local function ms_since(moment) return moment and math.max(0, NOW - tonumber(moment)) end
