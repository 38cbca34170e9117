-- Move an agent; further arguments are fields of its hash and of its event.
-- include: enter, events
local function move_agent(id, to, ...)
  append_agent_event(id, to, unpack(enter('agent', id, to, ...)))
end

-- Announce an agent before its spawn. `session`: the session that it is for, unless it is its id; `node`: the node that
-- boots it, if decided.
local function announce_agent(id, session, node)
  local fields = {}
  if session then fields = {'for', session} end
  if node then fields = {'node', node, unpack(fields)} end
  begin('agent', id, 'starting', fields)
end
