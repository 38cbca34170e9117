-- Calls in a row that lost an agent whose process lives but no longer serves: the next agents may fail for the same reason.
-- include: failing_codes, reasons, records

-- The count is forgotten this long after the last one.
local FAILING_SECONDS = 3600

-- Count a call once. `lives`: the agent has given no reason itself, and its process is known to live.
local function count_failing_call(session, cause, lives)
  if not lives and not FAILING_CODES[cause.code] then return end
  -- guard: failing-once
  if redis.call('HSETNX', 'session:' .. session, 'failing', 1) == 0 then return end
  redis.call('HINCRBY', 'pool:failing', 'calls', 1)
  redis.call('HSET', 'pool:failing', reason_fields('cause', cause))
  redis.call('EXPIRE', 'pool:failing', FAILING_SECONDS)
end

-- Whether the agent of a session has answered: the last turn is the agent's, and the one before it the user's. An agent
-- that keeps no turns has served by being in the call.
local function answered(id)
  local turns = redis.call('LRANGE', 'session:' .. id .. ':conversation', -2, -1)
  if #turns == 0 then return get('session:' .. id, 'activeAt') end
  return #turns == 2 and cjson.decode(turns[1]).role == 'user' and cjson.decode(turns[2]).role == 'agent'
end
