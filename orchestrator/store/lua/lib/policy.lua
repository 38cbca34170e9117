-- The limits and timeouts from the settings: the hash `policy`, which nodes write (Settings.policy). Its fields have the
-- settings' names and units.
-- include: policy_defaults
local POLICY = {}

-- Read several settings in one command.
local function read_policy(...)
  local names = {...}
  for i, value in ipairs(redis.call('HMGET', 'policy', ...)) do POLICY[names[i]] = tonumber(value) end
end

-- A setting as a number; its default where no node has written it.
local function policy(name)
  if not POLICY[name] then
    POLICY[name] = tonumber(redis.call('HGET', 'policy', name)) or policy_default(name) or error('there is no setting ' .. name)
  end
  return POLICY[name]
end

-- A setting of seconds, in milliseconds: the unit of deadlines and of times in records.
local function policy_ms(name) return math.floor(policy(name) * 1000 + 0.5) end

-- A setting of seconds as EXPIRE takes it: whole, and at least one.
local function policy_expiry(name) return math.max(1, math.floor(policy(name))) end

-- Whether a node has written the policy since Redis was empty.
local function policy_written() return redis.call('EXISTS', 'policy') == 1 end
