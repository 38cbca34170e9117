-- The streams of what happened: one of all sessions and agents, and one of each session.
local EVENTS_KEPT, SESSION_EVENTS_KEPT = 10000, 200

-- Append to the history of a session alone.
local function append_history(session, state, ...)
  redis.call('XADD', 'session:' .. session .. ':events', 'MAXLEN', '~', SESSION_EVENTS_KEPT, '*', 'state', state, ...)
end
local function append_event(session, state, ...)
  append_history(session, state, ...)
  redis.call('XADD', 'events', 'MAXLEN', '~', EVENTS_KEPT, '*', 'session', session, 'state', state, ...)
end
local function append_agent_event(agent, state, ...)
  redis.call('XADD', 'events', 'MAXLEN', '~', EVENTS_KEPT, '*', 'agent', agent, 'state', state, ...)
end
