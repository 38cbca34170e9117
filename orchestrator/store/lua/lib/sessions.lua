-- Move a session; further arguments are fields of its hash and of its event.
-- include: enter, events
local function move_session(id, to, ...)
  append_event(id, to, unpack(enter('session', id, to, ...)))
end
