-- Put in front of every script, behind the tables SESSION_MOVES and AGENT_MOVES (states.lua_tables).
-- A refused move is an error reply that starts with ILLEGAL; it is raised before anything is written.
-- The ids that a script meets on its way (an agent popped from the pool) name keys that cannot be
-- declared beforehand: the schema is for one Redis instance, not for a cluster.
local SESSION_SET = {starting = 'session:starting', ready = 'session:ready', active = 'session:active'}
local EVENTS_KEPT, SESSION_EVENTS_KEPT = 10000, 200

-- Redis's clock: the only one that all nodes share. NOW is in milliseconds; the line is ordered by microseconds.
local TIME = redis.call('TIME')
local NOW_US = tonumber(TIME[1]) * 1000000 + tonumber(TIME[2])
local NOW = math.floor(NOW_US / 1000)

local function refuse(what, id, from, to)
  error({err = 'ILLEGAL ' .. what .. ' ' .. id .. ': ' .. (from or 'unknown') .. ' -> ' .. to})
end

local function session_state(id) return redis.call('HGET', 'session:' .. id, 'status') or nil end
local function agent_state(id) return redis.call('HGET', 'agent:' .. id, 'state') or nil end

local function record(id, state, ...)
  redis.call('XADD', 'session:' .. id .. ':events', 'MAXLEN', '~', SESSION_EVENTS_KEPT, '*', 'state', state, ...)
  redis.call('XADD', 'events', 'MAXLEN', '~', EVENTS_KEPT, '*', 'session', id, 'state', state, ...)
end

-- Move a session; the extra arguments are fields of its hash and of its event.
local function move_session(id, to, ...)
  local from = session_state(id)
  if not from or not SESSION_MOVES[from] or not SESSION_MOVES[from][to] then refuse('session', id, from, to) end
  if SESSION_SET[from] then redis.call('SREM', SESSION_SET[from], id) end
  if SESSION_SET[to] then redis.call('SADD', SESSION_SET[to], id) end
  redis.call('HSET', 'session:' .. id, 'status', to, ...)
  record(id, to, ...)
end

local function move_agent(id, to, ...)
  local from = agent_state(id)
  if not from or not AGENT_MOVES[from] or not AGENT_MOVES[from][to] then refuse('agent', id, from, to) end
  if from == 'ready' then redis.call('SREM', 'pool:ready', id) end
  if from == 'starting' then redis.call('SREM', 'pool:starting', id) end
  if to == 'ready' then redis.call('SADD', 'pool:ready', id) end
  if to == 'exited' then redis.call('SREM', 'agents', id) end
  redis.call('HSET', 'agent:' .. id, 'state', to, ...)
  redis.call('XADD', 'events', 'MAXLEN', '~', EVENTS_KEPT, '*', 'agent', id, 'state', to, ...)
end

-- Announce an agent that is about to be spawned.
local function announce_agent(id)
  redis.call('HSET', 'agent:' .. id, 'state', 'starting', 'createdAt', NOW)
  redis.call('SADD', 'agents', id)
  redis.call('SADD', 'pool:starting', id)
end

-- Put a session's payload, a JSON object, into its agent's inbox. The session's id is known only here.
local function tell_agent(agent, session, payload)
  redis.call('RPUSH', 'agent:' .. agent .. ':inbox', '{"sessionId":"' .. session .. '",' .. string.sub(payload, 2))
end

-- Bind a warm or just booted agent to a session that waits for one (starting).
local function bind(session, agent, prewarmed)
  local fields = redis.call('HMGET', 'agent:' .. agent, 'pid', 'node')
  local created = redis.call('HMGET', 'session:' .. session, 'createdAt', 'agentIds', 'readyAt')
  local agents = created[2] and (created[2] .. ',' .. agent) or agent
  move_agent(agent, 'assigned', 'sessionId', session)
  move_session(session, 'ready', 'agentId', agent, 'agentPid', fields[1] or '', 'node', fields[2] or '',
    'agentIds', agents, 'readyAt', created[3] or NOW, 'prewarmed', prewarmed)
  redis.call('ZREM', 'session:queue', session)
  local payload = redis.call('GET', 'session:' .. session .. ':payload')
  if payload then tell_agent(agent, session, payload) end
  redis.call('HINCRBY', 'pool:stats', 'total_assigned', 1)
end

-- Take a warm agent whose heartbeat is fresh. A silent one leaves the pool here and is seen to by the health check.
-- Returns its id and {state, lastBeat, node, pid, startTicks}.
local function take_warm(silent_ms)
  while true do
    local id = redis.call('SPOP', 'pool:ready')
    if not id then return nil end
    local fields = redis.call('HMGET', 'agent:' .. id, 'state', 'lastBeat', 'node', 'pid', 'startTicks')
    if fields[1] == 'ready' and NOW - tonumber(fields[2] or 0) <= silent_ms then return id, fields end
  end
end

-- Take an agent out of service and tell it to leave.
local function dismiss(id, reason)
  move_agent(id, 'stopping', 'reason', reason)
  redis.call('RPUSH', 'agent:' .. id .. ':inbox', cjson.encode({type = 'stop', reason = reason}))
end

-- End a session in whatever live state it is; its record is kept for some seconds. The bound agent is told to leave.
local function end_session(id, to, reason, keep)
  local fields = redis.call('HMGET', 'session:' .. id, 'userId', 'agentId')
  move_session(id, to, 'reason', reason, 'endedAt', NOW)
  redis.call('ZREM', 'session:queue', id)
  redis.call('DEL', 'session:' .. id .. ':payload')
  if redis.call('GET', 'session:user:' .. fields[1]) == id then redis.call('DEL', 'session:user:' .. fields[1]) end
  redis.call('HINCRBY', 'pool:stats', to == 'error' and 'total_errors' or 'total_ended', 1)
  local agent = fields[2]
  if agent then
    local state = agent_state(agent)
    if state == 'assigned' or state == 'running' then dismiss(agent, reason) end
  end
  redis.call('EXPIRE', 'session:' .. id, keep)
  redis.call('EXPIRE', 'session:' .. id .. ':events', keep)
end
