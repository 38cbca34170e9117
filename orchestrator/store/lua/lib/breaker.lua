-- Boot failures in a row that open the breaker: then no start boots an agent, and one boot at a time is tried.
-- include: records
local BREAKER_FAILURES = 5
local function breaker_open()
  return tonumber(get('pool:breaker', 'failures') or 0) >= BREAKER_FAILURES
end
