-- The breaker: while it is open no start boots an agent, and one boot at a time is tried.
-- include: breaker_failures, records
local function breaker_open()
  return tonumber(get('pool:breaker', 'failures') or 0) >= BREAKER_FAILURES
end
