-- The session of a LiveKit room is kept under the room's name, for as long as the session's record.
-- include: live_session, records
local function set_session_of_room(room, id) redis.call('SET', 'session:room:' .. room, id) end

-- The live session of a room, nil if there is none.
local function live_session_of_room(room)
  local id = redis.call('GET', 'session:room:' .. room)
  return id and LIVE_SESSION[session_state(id)] and id or nil
end
