-- Moves of agents, with the deadlines that each state sets and clears.
-- include: agent_moves, clock, deadlines, events, illegal_move, policy, pool_members

-- A booting agent that no node has claimed in this time lost its spawn task.
local CLAIM_MS = 5000
-- An agent that was told to leave has this long beyond its own time limit; then its node stops it.
local LEAVE_MS = 2500
-- States in which an agent has a session.
local BUSY = {assigned = true, running = true}

-- Move an agent; further arguments are fields of its hash and of its event.
local function move_agent(id, to, ...)
  local fields = redis.call('HMGET', 'agent:' .. id, 'state', 'node')
  local from, node = fields[1] or nil, fields[2] or nil
  if not from or not AGENT_MOVES[from] or not AGENT_MOVES[from][to] then illegal_move('agent', id, from, to) end
  if from == 'ready' then leave_pool(id, node) end
  if from == 'starting' then redis.call('SREM', 'pool:starting', id) end
  if to == 'ready' then join_pool(id, node) else redis.call('SREM', 'pool:stale', id) end
  if node and BUSY[to] then redis.call('SADD', 'node:' .. node .. ':busy', id)
  elseif node and BUSY[from] then redis.call('SREM', 'node:' .. node .. ':busy', id) end
  if to == 'exited' then redis.call('SREM', 'agents', id) end
  redis.call('HSET', 'agent:' .. id, 'state', to, ...)
  append_agent_event(id, to, ...)
  clear_deadlines(id, 'boot')
  if to == 'ready' or to == 'assigned' then
    set_deadline('beat', id, policy('silentMs'))
  elseif to == 'stopping' then
    clear_deadlines(id, 'beat')
    redis.call('HSET', 'agent:' .. id, 'stoppingAt', NOW)
    set_deadline('stop', id, policy('stopMs') + LEAVE_MS)
  elseif to == 'exited' then
    clear_deadlines(id, 'beat', 'stop')
  end
end

-- Announce an agent that is to be spawned. `session`: which it is for, unless its own id says so; `node`: which boots it,
-- where that is decided.
local function announce_agent(id, session, node)
  redis.call('HSET', 'agent:' .. id, 'state', 'starting', 'createdAt', NOW)
  if session then redis.call('HSET', 'agent:' .. id, 'for', session) end
  if node then redis.call('HSET', 'agent:' .. id, 'node', node) end
  redis.call('SADD', 'agents', id)
  redis.call('SADD', 'pool:starting', id)
  set_deadline('boot', id, CLAIM_MS)
end
