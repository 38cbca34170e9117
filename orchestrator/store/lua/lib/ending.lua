-- End a session unless it is over. Returns {1 when this call ended it, status}.
-- include: closing, live_session, records
local function end_if_live(id, to, why)
  local live = LIVE_SESSION[session_state(id)]
  if live then end_session(id, to, why) end
  return {live and 1 or 0, session_state(id)}
end
