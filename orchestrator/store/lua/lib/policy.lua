-- The limits and waits that the operator has set: the hash `policy`, which nodes write (Settings.policy).
-- include: policy_defaults
local POLICY
local function read_policy()
  if POLICY then return end
  POLICY = {}
  local flat = redis.call('HGETALL', 'policy')
  for i = 1, #flat, 2 do POLICY[flat[i]] = tonumber(flat[i + 1]) end
end

-- A field as a number; its default where no node has written it.
local function policy(name)
  read_policy()
  return POLICY[name] or POLICY_DEFAULTS[name]
end

-- Whether a node has written the policy since Redis was empty.
local function policy_written()
  read_policy()
  return next(POLICY) ~= nil
end
