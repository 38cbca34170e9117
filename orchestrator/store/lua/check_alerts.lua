-- Compare the state of the system with what was last sent to the operator, and send what has changed. Level-triggered:
-- however many nodes check, each change is sent once, and what lasts is not sent again.
--
-- KEYS  none
-- ARGV  none
-- Returns the names of what is wrong now
--
-- alerts  hash  {name}: when it was sent as wrong (ms); {name}:since: since when it differs from what was sent
-- pool:target string, pool:ready set, pool:breaker hash, pool:failing hash, outcomes:{n} hash, nodes set, nodes:draining set
-- alert:{id} string, deadlines zset
-- include: alerts, breaker, clock, failing_calls_limit, nodes, outcomes, records
local EMPTY_MS, FILLED_MS = 15000, 5000
local MOST_ERRORS, LEAST_SESSIONS, NORMAL_MS = 0.1, 10, 60000
local wrong = {}

-- Send that something has begun (`bad`) after it has lasted `wait` ms, and that it is over (`good`) after `calm` ms.
local function watch(name, holds, bad, wait, good, calm, data)
  local sent_at = get('alerts', name)
  if sent_at then wrong[#wrong + 1] = name end
  if (sent_at ~= nil) == holds then
    redis.call('HDEL', 'alerts', name .. ':since')
    return
  end
  redis.call('HSETNX', 'alerts', name .. ':since', NOW)
  if NOW - tonumber(get('alerts', name .. ':since')) < (holds and wait or calm) then return end
  redis.call('HDEL', 'alerts', name .. ':since')
  if holds then
    redis.call('HSET', 'alerts', name, NOW)
    wrong[#wrong + 1] = name
    enqueue_alert(bad, NOW, data)
  else
    redis.call('HDEL', 'alerts', name)
    wrong[#wrong] = nil
    data.lasted = (NOW - sent_at) / 1000
    enqueue_alert(good, sent_at, data)
  end
end

local target, warm = tonumber(redis.call('GET', 'pool:target') or 0), redis.call('SCARD', 'pool:ready')
watch('pool', target > 0 and warm == 0 and any_node_in_service(), 'pool.empty', EMPTY_MS, 'pool.filled', FILLED_MS,
  {target = target, warm = warm, booting = redis.call('SCARD', 'pool:starting')})

watch('breaker', breaker_open(), 'breaker.opened', 0, 'breaker.closed', 0, {
  cause = get('pool:breaker', 'cause'), causeCode = get('pool:breaker', 'causeCode'), failures = tonumber(get('pool:breaker', 'failures') or 0)})

local calls = tonumber(get('pool:failing', 'calls') or 0)
watch('agents', calls >= FAILING_CALLS, 'agents.failing', 0, 'agents.serving', 0, {
  calls = calls, cause = get('pool:failing', 'cause'), causeCode = get('pool:failing', 'causeCode')})

local ended, errors = 0, 0
for back = 0, OUTCOME_MINUTES - 1 do
  local fields = redis.call('HMGET', outcomes_key(back), 'ended', 'error')
  ended, errors = ended + tonumber(fields[1] or 0), errors + tonumber(fields[2] or 0)
end
local sessions = ended + errors
watch('error_rate', sessions >= LEAST_SESSIONS and errors > MOST_ERRORS * sessions, 'error_rate.high', 0,
  'error_rate.normal', NORMAL_MS, {errors = errors, sessions = sessions, minutes = OUTCOME_MINUTES})
return wrong
