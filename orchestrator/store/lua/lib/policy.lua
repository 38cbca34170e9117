-- The limits and timeouts from the settings: the hash `policy`, which nodes write (Settings.policy). Its fields have the
-- settings' names and units.
-- include: policy_defaults
local POLICY
local function read_policy()
  if POLICY then return end
  POLICY = {}
  local flat = redis.call('HGETALL', 'policy')
  for i = 1, #flat, 2 do POLICY[flat[i]] = tonumber(flat[i + 1]) end
end

-- A setting as a number; its default where no node has written it.
local function policy(name)
  read_policy()
  return POLICY[name] or POLICY_DEFAULTS[name] or error('there is no setting ' .. name)
end

-- A setting of seconds, in milliseconds: the unit of deadlines and of times in records.
local function policy_ms(name) return math.floor(policy(name) * 1000 + 0.5) end

-- A setting of seconds as EXPIRE takes it: whole, and at least one.
local function policy_expiry(name) return math.max(1, math.floor(policy(name))) end

-- Whether a node has written the policy since Redis was empty.
local function policy_written()
  read_policy()
  return next(POLICY) ~= nil
end
