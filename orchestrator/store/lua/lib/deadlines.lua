-- Every wait is a member of the sorted set `deadlines`: `kind|id`, scored by the time at which it is over.
-- process_deadlines.lua acts on it.
-- include: clock

-- Time that passes without a check of the deadlines for longer than this does not count.
local PAUSE_MS = 3000

local COUNTED_FROM
-- The time from which a new wait counts: now, or during a pause the time of the last check. The check that ends the pause
-- adds its length to every deadline.
local function counted_from()
  if not COUNTED_FROM then
    local checked = tonumber(redis.call('GET', 'deadlines:looked') or NOW)
    COUNTED_FROM = math.abs(NOW - checked) > PAUSE_MS and checked or NOW
  end
  return COUNTED_FROM
end

local function set_deadline(kind, id, ms)
  redis.call('ZADD', 'deadlines', counted_from() + ms, kind .. '|' .. id)
end
local function set_deadline_if_none(kind, id, ms)
  redis.call('ZADD', 'deadlines', 'NX', counted_from() + ms, kind .. '|' .. id)
end
-- Set a deadline, or move it closer; one that is closer already stays.
local function set_deadline_at_most(kind, id, ms)
  redis.call('ZADD', 'deadlines', 'LT', counted_from() + ms, kind .. '|' .. id)
end
local function clear_deadlines(id, ...)
  local members = {...}
  for i, kind in ipairs(members) do members[i] = kind .. '|' .. id end
  if #members > 0 then redis.call('ZREM', 'deadlines', unpack(members)) end
end
