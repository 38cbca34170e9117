-- An agent whose call is over has time for its work after the call. Its seat is free, so nobody waits for it.
-- include: deadlines, leave_ms, policy
local function allow_wind_down(agent)
  -- guard: wind-down
  set_deadline('stop', agent, policy_ms('shutdown_seconds') + policy_ms('stop_grace_seconds') + LEAVE_MS)
end
