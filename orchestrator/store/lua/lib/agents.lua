-- Move an agent; further arguments are fields of its hash and of its event.
-- include: enter, events
local function move_agent(id, to, ...)
  append_agent_event(id, to, unpack(enter('agent', id, to, ...)))
end

-- Announce an agent that is to be spawned. `session`: which it is for, unless its own id says so; `node`: which boots it,
-- where that is decided.
local function announce_agent(id, session, node)
  local fields = {}
  if session then fields = {'for', session} end
  if node then fields = {'node', node, unpack(fields)} end
  begin('agent', id, 'starting', fields)
end
