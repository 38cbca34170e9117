-- Put in front of every script, behind the tables SESSION_MOVES and AGENT_MOVES (states.lua_tables) and BOUNDS
-- (histograms.lua_table).
-- A refused move is an error reply that starts with ILLEGAL; it is raised before anything is written.
-- The ids that a script meets on its way (an agent popped from the pool) name keys that cannot be
-- declared beforehand: the schema is for one Redis instance, not for a cluster.
--
-- Every wait is a member of the sorted set `deadlines`, `kind|id` by the time it is over. They are set and met here,
-- by the moves themselves; deadlines_due.lua says what each miss does. Python takes one away alone, when what
-- deadlines_due.lua has asked for is done (`close`, `alert`) or LiveKit has given a job (`job`), and sets none.
local SESSION_SET = {starting = 'session:starting', ready = 'session:ready', active = 'session:active'}
local EVENTS_KEPT, SESSION_EVENTS_KEPT = 10000, 200
-- A booting agent that no node has claimed by now lost its task; a stopping one that still lives is helped along.
local CLAIM_MS, LEAVE_MS = 5000, 2500
-- What was said last is still on its way to the user when a session ends; then the room goes.
local CLOSE_MS = 1500
-- LiveKit tells us at once that a job we took is ours, or never; its own agents wait for it as long as this.
local JOB_MS = 7500
-- When nobody has looked at the deadlines for longer than this, that time does not count.
local BLIND_MS = 3000
-- Boot failures in a row that open the breaker; pauses after 1, 2, 3 … of them double up to a minute.
local BREAKER_FAILURES, LONGEST_PAUSE_MS = 5, 60000
-- A node whose agents have failed to boot so often in a row is left alone for so long, when others' boot.
local NODE_FAILURES, NODE_PAUSE_SECONDS = 3, 60
-- A further session of one user waits as if it had come this much later.
local FAIRNESS_US = 60 * 1000000
-- A network of IPv6 addresses (a /48) may have so many times what limits allow one address (its /64).
local WIDER = 4
-- Before the call began, an agent is replaced this often.
local MOST_REPLACEMENTS = 2
local FOUND_DEAD = 'found dead at assignment'
-- A call leaves a node that stops: nobody has failed, so it is not counted against the session.
local HANDED_OVER = 'node_draining: the node stops, the call goes on elsewhere'
-- What an agent says when its process lives and serves no more. After so many calls in a row that lost an agent so, the
-- operator is warned; an hour after the last one nothing is said of it.
local SERVES_NO_MORE = {pipeline_failed = true, agent_error = true}
local FAILING_CALLS, FAILING_SECONDS = 3, 3600
-- What is left of a node's record (10 s, renewed every second) when it has missed two beats: others are asked first.
local LATE_MS = 7500
-- The share of errors is that of the sessions that were over within so many minutes.
local OUTCOME_MINUTES = 5
-- What the operator's webhook is to be told, is kept as long as its delivery may take to be queued.
local ALERT_SECONDS = 3600

-- Redis's clock: the only one that all nodes share. NOW is in milliseconds; the line is ordered by microseconds.
local TIME = redis.call('TIME')
local NOW_US = tonumber(TIME[1]) * 1000000 + tonumber(TIME[2])
local NOW = math.floor(NOW_US / 1000)

local POLICY
-- A field of the hash `policy` (Settings.policy), as a number. Nil before a node has written it.
local function policy(name)
  if not POLICY then
    POLICY = {}
    local flat = redis.call('HGETALL', 'policy')
    for i = 1, #flat, 2 do POLICY[flat[i]] = tonumber(flat[i + 1]) end
  end
  return POLICY[name]
end

local function refuse(what, id, from, to)
  error({err = 'ILLEGAL ' .. what .. ' ' .. id .. ': ' .. (from or 'unknown') .. ' -> ' .. to})
end

-- The process that says that it is an agent is the one that the agent host has started (`pid`), or a descendant of it:
-- what was started may be a wrapper. `lineage`: its pid and those of its ancestors, separated by commas. Returns the
-- contradiction in words, nil where there is none.
local function contradiction(pid, lineage)
  if string.find(',' .. lineage .. ',', ',' .. pid .. ',', 1, true) then return end
  return 'process ' .. string.match(lineage, '^[^,]*') .. ' says that it is this agent, and is neither process ' .. pid
    .. ', which the agent host has started, nor a descendant of it'
end

local function session_state(id) return redis.call('HGET', 'session:' .. id, 'status') or nil end
local function agent_state(id) return redis.call('HGET', 'agent:' .. id, 'state') or nil end
local function get(key, field) return redis.call('HGET', key, field) or nil end
local function seconds(ms) return string.format('%g', ms / 1000) end

-- From when a new wait counts. While nobody looks at the deadlines that is the time of the last look: the next one adds
-- to every deadline the time that was missed (see deadlines_due.lua).
local SINCE
local function since()
  if not SINCE then
    local looked = tonumber(redis.call('GET', 'deadlines:looked') or NOW)
    SINCE = math.abs(NOW - looked) > BLIND_MS and looked or NOW
  end
  return SINCE
end
local function expect(kind, id, ms) redis.call('ZADD', 'deadlines', since() + ms, kind .. '|' .. id) end
local function expect_once(kind, id, ms) redis.call('ZADD', 'deadlines', 'NX', since() + ms, kind .. '|' .. id) end
-- A look that is planned for later comes sooner; one that is planned sooner stays.
local function look_by(id, ms) redis.call('ZADD', 'deadlines', 'LT', since() + ms, 'look|' .. id) end
local function met(id, ...)
  for _, kind in ipairs({...}) do redis.call('ZREM', 'deadlines', kind .. '|' .. id) end
end

-- Tell the operator's webhook of something, once: whichever node looks next queues the delivery (deadlines_due.lua).
-- `unique` and the kind make the message's id, by which its receiver knows it again.
local function tell(kind, unique, data)
  if policy('webhooks') ~= 1 then return end
  local id = string.gsub(kind, '%.', '_') .. '_' .. unique
  redis.call('SET', 'alert:' .. id, cjson.encode({type = kind, at = NOW, data = data}), 'EX', ALERT_SECONDS)
  expect('alert', id, 0)
end

-- Raise Redis's own error where it is full: once the first write of a script was let through, all of it is, and a SPOP
-- always is. What takes on new work asks before it takes anything. This writes nothing.
local function ask_for_memory() redis.call('SETRANGE', 'pool:refill', 0, '') end

-- Have a node, or each, look what the pool lacks now. A list that nobody reads goes by itself.
local function wake(node)
  for _, id in ipairs(node and {node} or redis.call('SMEMBERS', 'nodes')) do
    local key = 'pool:wake:' .. id
    if redis.call('LLEN', key) == 0 then
      redis.call('RPUSH', key, NOW)
      redis.call('EXPIRE', key, 60)
    end
  end
end

-- Count a duration in its histogram, and keep it among the recent ones. What was lost with a record is not counted.
local function observe(name, ms)
  if not ms then return end
  local bucket = 'inf'
  for _, bound in ipairs(BOUNDS[name]) do
    if ms <= bound then
      bucket = tostring(bound)
      break
    end
  end
  redis.call('HINCRBY', 'histogram:' .. name, bucket, 1)
  redis.call('HINCRBY', 'histogram:' .. name, 'us', math.floor(ms * 1000 + 0.5))
  local recent = 'recent:' .. string.match(name, '^[^:]+')
  redis.call('LPUSH', recent, string.format('%.3f %d', ms, NOW))
  redis.call('LTRIM', recent, 0, RECENT - 1)
end
-- Milliseconds since a moment that a record names, nil when it names none.
local function ms_since(moment) return moment and math.max(0, NOW - tonumber(moment)) end

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
  redis.call('ZREM', 'session:queued', id)
  redis.call('ZREM', 'session:unbound', id)
  redis.call('HSET', 'session:' .. id, 'status', to, ...)
  -- What LiveKit was said to know better was about the state before.
  redis.call('HDEL', 'session:' .. id, 'doubt')
  record(id, to, ...)
  if to == 'starting' then
    -- The goodbye was the lost agent's, whose node stops; the next one may live on another.
    met(id, 'queue', 'join', 'goodbye', 'room')
    redis.call('HDEL', 'session:' .. id, 'refused')
    expect('start', id, policy('startMs') or 30000)
  elseif to == 'ready' then
    met(id, 'start')
    expect('join', id, policy('joinMs') or 10000)
    if get('session:' .. id, 'activeAt') then
      expect_once('gone', id, (policy('joinMs') or 10000) + (policy('userGoneMs') or 20000))
    else
      expect_once('user', id, policy('userJoinMs') or 60000)
    end
  elseif to == 'active' then
    -- A call that goes on is not ended for what LiveKit has not said about its job.
    met(id, 'join', 'user', 'gone', 'job')
    expect_once('max', id, policy('maxMs') or 1800000)
  else
    met(id, 'queue', 'start', 'join', 'user', 'gone', 'max', 'goodbye', 'job', 'look', 'room')
  end
end

-- The pool as a whole, and by node: pool:ready is what counts, node:{id}:warm finds the warm agents of one node.
local function join_pool(id, node)
  redis.call('SADD', 'pool:ready', id)
  if node then redis.call('SADD', 'node:' .. node .. ':warm', id) end
end
local function leave_pool(id, node)
  redis.call('SREM', 'pool:ready', id)
  if node then redis.call('SREM', 'node:' .. node .. ':warm', id) end
end

local BUSY = {assigned = true, running = true}
local function move_agent(id, to, ...)
  local fields = redis.call('HMGET', 'agent:' .. id, 'state', 'node')
  local from, node = fields[1] or nil, fields[2] or nil
  if not from or not AGENT_MOVES[from] or not AGENT_MOVES[from][to] then refuse('agent', id, from, to) end
  if from == 'ready' then leave_pool(id, node) end
  if from == 'starting' then redis.call('SREM', 'pool:starting', id) end
  if to == 'ready' then join_pool(id, node) else redis.call('SREM', 'pool:stale', id) end
  if node and BUSY[to] then redis.call('SADD', 'node:' .. node .. ':busy', id)
  elseif node and BUSY[from] then redis.call('SREM', 'node:' .. node .. ':busy', id) end
  if to == 'exited' then redis.call('SREM', 'agents', id) end
  redis.call('HSET', 'agent:' .. id, 'state', to, ...)
  redis.call('XADD', 'events', 'MAXLEN', '~', EVENTS_KEPT, '*', 'agent', id, 'state', to, ...)
  met(id, 'boot')
  if to == 'ready' or to == 'assigned' then
    expect('beat', id, policy('silentMs') or 8000)
  elseif to == 'stopping' then
    met(id, 'beat')
    redis.call('HSET', 'agent:' .. id, 'stoppingAt', NOW)
    expect('stop', id, (policy('stopMs') or 1500) + LEAVE_MS)
  elseif to == 'exited' then
    met(id, 'beat', 'stop')
  end
end

-- The user is in the room with the session's agent. Further arguments: what else belongs into its history.
local function user_came(id, ...)
  if session_state(id) ~= 'active' then
    move_session(id, 'active', 'activeAt', get('session:' .. id, 'activeAt') or NOW)
  elseif redis.call('ZREM', 'deadlines', 'gone|' .. id) == 1 then
    record(id, 'user_back', ...)
  end
end

-- The user was in the room, and is not any more: has left, or has lost the connection.
local function user_went(id, lost, ...)
  met(id, 'user')
  expect_once('gone', id, (policy('userGoneMs') or 20000) / (lost and 4 or 1))
  redis.call('HSET', 'session:' .. id, 'userLost', lost and 1 or 0)
  record(id, lost and 'user_lost' or 'user_left', ...)
end

-- Announce an agent that is about to be spawned: for a session where it is another's than its own name says, by a node
-- where that is settled.
local function announce_agent(id, session, node)
  redis.call('HSET', 'agent:' .. id, 'state', 'starting', 'createdAt', NOW)
  if session then redis.call('HSET', 'agent:' .. id, 'for', session) end
  if node then redis.call('HSET', 'agent:' .. id, 'node', node) end
  redis.call('SADD', 'agents', id)
  redis.call('SADD', 'pool:starting', id)
  expect('boot', id, CLAIM_MS)
end

-- Tell who waits how far the boot is: the session that the agent was announced for, else the one that is served next.
local function boot_phase(agent, phase)
  local session = get('agent:' .. agent, 'for') or agent
  if not redis.call('ZSCORE', 'session:unbound', session) then
    session = redis.call('ZRANGE', 'session:unbound', 0, 0)[1]
  end
  if session then record(session, 'boot', 'phase', phase, 'agentId', agent) end
end

-- Put a session's payload, a JSON object, into its agent's inbox, with what the payload's author could not know: the
-- session's id, and of a call that is taken over what was said so far.
local function tell_agent(agent, session, payload)
  local fields = redis.call('HMGET', 'session:' .. session, 'createdAt', 'takeovers', 'handovers')
  local turns = redis.call('LRANGE', 'session:' .. session .. ':conversation', 0, -1)
  redis.call('RPUSH', 'agent:' .. agent .. ':inbox', '{"sessionId":"' .. session .. '","createdAt":'
    .. (fields[1] or NOW) .. ',"takeovers":' .. (fields[2] or 0) + (fields[3] or 0)
    .. ',"conversation":[' .. table.concat(turns, ',') .. '],' .. string.sub(payload, 2))
end

-- A user who asked for that is served by the same node the next time, when it has a warm agent then.
local function remember_node(user, node)
  if node then redis.call('SET', 'user:node:' .. user, node, 'EX', policy('keepSeconds') or 86400) end
end
local function remembered_node(user) return redis.call('GET', 'user:node:' .. user) or nil end

-- Bind a warm or just booted agent to a session that waits for one (starting).
local function bind(session, agent, prewarmed)
  local fields = redis.call('HMGET', 'agent:' .. agent, 'pid', 'node')
  local before = redis.call('HMGET', 'session:' .. session, 'agentIds', 'readyAt', 'createdAt', 'affinity', 'userId')
  if before[4] then remember_node(before[5], fields[2]) end
  local agents = before[1] and (before[1] .. ',' .. agent) or agent
  if not before[2] then observe('start:wait', ms_since(before[3])) end
  move_agent(agent, 'assigned', 'sessionId', session, 'assignedAt', NOW)
  move_session(session, 'ready', 'agentId', agent, 'agentPid', fields[1] or '', 'node', fields[2] or '',
    'agentIds', agents, 'readyAt', before[2] or NOW, 'prewarmed', prewarmed)
  local payload = redis.call('GET', 'session:' .. session .. ':payload')
  if payload then tell_agent(agent, session, payload) end
  redis.call('HINCRBY', 'pool:stats', 'total_assigned', 1)
end

-- Count one more of something by address, of which a window allows so many. Returns nil, or ms after which to try again.
-- A sliding window counter: this window's count plus the share of the last one that still lies within it.
local function limited(name, address, amount, window)
  local index = math.floor(NOW / window)
  local passed = (NOW % window) / window
  local key = name .. ':' .. address .. ':'
  local current = tonumber(redis.call('GET', key .. index) or 0)
  local last = tonumber(redis.call('GET', key .. (index - 1)) or 0)
  if current + last * (1 - passed) >= amount then
    local wait
    if current >= amount then wait = (1 - passed) + (1 - amount / current)
    else wait = 1 - (amount - current) / last - passed end
    return math.ceil(wait * window) + 1
  end
  redis.call('SET', key .. index, current + 1, 'PX', window * 2)
end

-- The same for an address and the network that it is of, which may have WIDER times as much. What the address is refused
-- is not counted against its neighbours.
local function limited_from(name, address, network, amount, window)
  local wait = limited(name, address, amount, window)
  if not wait and network ~= '' and network ~= address then
    wait = limited(name, network, amount * WIDER, window)
  end
  return wait
end

-- How many live sessions an address, or a network, has, and how many of them wait in line.
local function sessions_from(address)
  local key, live, waiting = 'address:sessions:' .. address, 0, 0
  for _, session in ipairs(redis.call('SMEMBERS', key)) do
    local state = session_state(session)
    if state and next(SESSION_MOVES[state]) then
      live = live + 1
      if state == 'queued' then waiting = waiting + 1 end
    else
      redis.call('SREM', key, session)
    end
  end
  return live, waiting
end

local SERVING
-- The nodes that live and take sessions, in the order of their names: {id, late, host, most}. `late`: it may have
-- vanished; `most`: its calls at once, where that is bounded.
local function serving()
  if SERVING then return SERVING end
  SERVING = {}
  local ids, draining = redis.call('SMEMBERS', 'nodes'), redis.call('SCARD', 'nodes:draining') > 0
  table.sort(ids)
  for _, id in ipairs(ids) do
    local left = redis.call('PTTL', 'node:' .. id)
    if left ~= -2 and not (draining and redis.call('SISMEMBER', 'nodes:draining', id) == 1) then
      local fields = redis.call('HMGET', 'node:' .. id, 'host', 'sessions')
      local most = tonumber(fields[2] or 0)
      SERVING[#SERVING + 1] = {id = id, late = left >= 0 and left < LATE_MS, host = fields[1] == '1', most = most > 0 and most or nil}
    end
  end
  return SERVING
end

-- Whether a node lives that takes sessions: those that drain take no more.
local function in_service() return #serving() > 0 end

-- Calls of a node, and the share of what it may have: 1 is full.
local function load_of(node)
  return redis.call('SCARD', 'node:' .. node.id .. ':busy') / (node.most or policy('maxSessions') or 1)
end
local function has_room(node) return not node.most or load_of(node) < 1 end

-- Sessions at once: MAX_SESSIONS, or less where that is more than all nodes have room for (NODE_SESSIONS). What goes on
-- on a draining node takes nothing from the others.
local function most_sessions()
  local most, sum = policy('maxSessions'), 0
  for _, node in ipairs(serving()) do
    if not node.most then return most end
    sum = sum + node.most
  end
  if sum == 0 then return most end
  for _, id in ipairs(redis.call('SMEMBERS', 'nodes:draining')) do sum = sum + redis.call('SCARD', 'node:' .. id .. ':busy') end
  return math.min(most, sum)
end

-- Returns the agent and {state, lastBeat, node, pid, startTicks} when it is warm and its heartbeat fresh. A silent one has
-- left the pool here, and is seen to at its deadline.
local function if_fresh(id)
  local fields = redis.call('HMGET', 'agent:' .. id, 'state', 'lastBeat', 'node', 'pid', 'startTicks')
  if fields[3] then redis.call('SREM', 'node:' .. fields[3] .. ':warm', id) end
  if fields[1] == 'ready' and NOW - tonumber(fields[2] or 0) <= (policy('silentMs') or 8000) then return id, fields end
end

-- Take a warm agent: of the node that is asked for if it has one, else of the one with the smallest load. Nodes that are
-- late come last, nodes without room not at all. Returns what `if_fresh` does.
local function take_warm(prefer)
  local nodes = {}
  if #serving() > 1 or (SERVING[1] and SERVING[1].most) then
    for _, node in ipairs(serving()) do
      if has_room(node) then
        nodes[#nodes + 1] = {id = node.id, rank = (node.late and 4 or node.id == prefer and 0 or 2) + load_of(node),
          warm = redis.call('SCARD', 'node:' .. node.id .. ':warm')}
      end
    end
    table.sort(nodes, function(a, b) return a.rank < b.rank or (a.rank == b.rank and a.warm > b.warm) end)
    for _, node in ipairs(nodes) do
      local id = redis.call('SPOP', 'node:' .. node.id .. ':warm')
      while id do
        if redis.call('SREM', 'pool:ready', id) == 1 then
          local found, fields = if_fresh(id)
          if found then return found, fields end
        end
        id = redis.call('SPOP', 'node:' .. node.id .. ':warm')
      end
    end
    -- Whose node says nothing of itself, or has said nothing of them.
    local full = {}
    for _, node in ipairs(serving()) do full[node.id] = not has_room(node) end
    for _, id in ipairs(redis.call('SMEMBERS', 'pool:ready')) do
      if not full[get('agent:' .. id, 'node') or ''] then
        redis.call('SREM', 'pool:ready', id)
        local found, fields = if_fresh(id)
        if found then return found, fields end
      end
    end
    return nil
  end
  while true do
    local id = redis.call('SPOP', 'pool:ready')
    if not id then return nil end
    local found, fields = if_fresh(id)
    if found then return found, fields end
  end
end

-- Take an agent out of service and tell it to leave.
local function dismiss(id, reason)
  move_agent(id, 'stopping', 'reason', reason)
  redis.call('RPUSH', 'agent:' .. id .. ':inbox', cjson.encode({type = 'stop', reason = reason}))
end

local function live_sessions()
  return redis.call('SCARD', 'session:starting') + redis.call('SCARD', 'session:ready')
    + redis.call('SCARD', 'session:active')
end

-- How many of a set of agents are each node's.
local function by_node(set)
  local counts = {}
  for _, id in ipairs(redis.call('SMEMBERS', set)) do
    local node = get('agent:' .. id, 'node')
    if node then counts[node] = (counts[node] or 0) + 1 end
  end
  return counts
end

local function short(node) return redis.call('EXISTS', 'node:' .. node.id .. ':short') == 1 end
local function boot_failures(id) return tonumber(redis.call('GET', 'node:' .. id .. ':failures') or 0) end

-- The nodes that can boot an agent: they take sessions, have an agent host, memory and room. Those whose agents do not boot
-- are left alone as long as others can. `me` asks, and so has host and memory, also before it has said so.
local function builders(me)
  local found, sound, known = {}, {}, false
  local function add(node)
    found[#found + 1] = node
    if boot_failures(node.id) < NODE_FAILURES then sound[#sound + 1] = node end
  end
  for _, node in ipairs(serving()) do
    known = known or node.id == me
    if (node.id == me or (node.host and not short(node))) and has_room(node) then add(node) end
  end
  if me and not known and redis.call('SISMEMBER', 'nodes:draining', me) == 0 then add({id = me}) end
  return #sound > 0 and sound or found
end

-- Warm agents to keep: the target, but one on each node that can: when a node vanishes the others have some.
local function warm_target(nodes)
  local target = tonumber(redis.call('GET', 'pool:target') or 0)
  return target > 0 and math.max(target, #nodes) or 0
end

-- Each node's share of that. Those that can boot none now keep what they have, as long as it is no more than a share: it
-- would have to be booted anew a moment later.
local function shares(nodes)
  local target, want, keepers = warm_target(nodes), {}, {}
  for _, node in ipairs(nodes) do want[node.id] = 0 end
  for _, node in ipairs(serving()) do
    if not want[node.id] then keepers[#keepers + 1] = node.id end
  end
  local fair = math.floor(target / math.max(1, #nodes + #keepers))
  for _, id in ipairs(keepers) do
    want[id] = math.min(fair, redis.call('SCARD', 'node:' .. id .. ':warm'))
    target = target - want[id]
  end
  for i, node in ipairs(nodes) do
    want[node.id] = math.floor(target / #nodes) + (i <= target % #nodes and 1 or 0)
  end
  return want
end

-- What the pool lacks: its target and the sessions that wait, less the agents that are warm or booting on current code.
local function missing_agents(nodes)
  return warm_target(nodes) + redis.call('ZCARD', 'session:unbound')
    - redis.call('SCARD', 'pool:ready') - redis.call('SCARD', 'pool:starting') + redis.call('SCARD', 'pool:stale')
end

-- A warm agent of the node that is furthest above its share, nil where none is.
local function above_share(want)
  local warm, one = {}, {}
  for _, id in ipairs(redis.call('SMEMBERS', 'pool:ready')) do
    local fields = redis.call('HMGET', 'agent:' .. id, 'state', 'node')
    local node = fields[2] or ''
    if fields[1] == 'ready' then
      warm[node] = (warm[node] or 0) + 1
      if not one[node] or id < one[node] then one[node] = id end
    end
  end
  local most, found = 0, nil
  for node, count in pairs(warm) do
    local above = count - (want[node] or 0)
    if above > most or (above == most and found and node < found) then most, found = above, node end
  end
  return one[found]
end

-- Whether a session may begin on a node: it has room, or no node has. One that nobody knows has.
local function may_serve(id)
  local here, anywhere = nil, false
  for _, node in ipairs(serving()) do
    if node.id == id then here = node end
    anywhere = anywhere or has_room(node)
  end
  return not here or has_room(here) or not anywhere
end

-- Whether a warm agent is there that can be handed out.
local function warm_with_room()
  local bounded = false
  for _, node in ipairs(serving()) do
    bounded = bounded or node.most
    if has_room(node) and redis.call('SCARD', 'node:' .. node.id .. ':warm') > 0 then return true end
  end
  return not bounded and redis.call('SCARD', 'pool:ready') > 0
end

-- Whether one more session that waits would get an agent: of a node with room that has a warm one, or can boot one.
-- `but`: a node that does not count.
local function could_serve(but)
  local places = 0
  for _, node in ipairs(serving()) do
    local able = redis.call('SCARD', 'node:' .. node.id .. ':warm') > 0 or (node.host and not short(node))
    if able and node.id ~= but then
      if not node.most then return true end
      places = places + math.max(0, node.most - redis.call('SCARD', 'node:' .. node.id .. ':busy'))
    end
  end
  return places > redis.call('ZCARD', 'session:unbound')
end

-- What is left on a node: {sessions that it serves or whose room is still open, living agents}.
local function left_on(node)
  local ids, sessions, agents = redis.call('SUNION', 'session:ready', 'session:active'), 0, 0
  for _, member in ipairs(redis.call('ZRANGE', 'deadlines', 0, -1)) do
    ids[#ids + 1] = string.match(member, '^close|(.*)$')
  end
  for _, id in ipairs(ids) do
    if get('session:' .. id, 'node') == node then sessions = sessions + 1 end
  end
  for _, id in ipairs(redis.call('SMEMBERS', 'agents')) do
    if get('agent:' .. id, 'node') == node then agents = agents + 1 end
  end
  return {sessions, agents}
end

-- Give a session that has just become starting its agent: a warm one, or the next that is.
local function serve(session)
  local asked = redis.call('HMGET', 'session:' .. session, 'affinity', 'userId')
  local warm = take_warm(asked[1] and remembered_node(asked[2]))
  wake()
  if warm then
    bind(session, warm, 1)
    return true
  end
  redis.call('HDEL', 'session:' .. session, 'agentId', 'agentPid', 'node')
  -- Whoever started first is served first, a call that lost its agent before any that has not begun.
  redis.call('ZADD', 'session:unbound', get('session:' .. session, 'createdAt') * 1000, session)
  return false
end

-- A warm agent that nobody counted on is there: it serves the session that has waited longest, or joins the pool.
-- Returns its state.
local function offer(id)
  local node = get('agent:' .. id, 'node')
  local draining = node and redis.call('SISMEMBER', 'nodes:draining', node) == 1
  local waiting = redis.call('ZRANGE', 'session:unbound', 0, 0)[1]
  -- A call on a draining node soon ends: it begins there only when no other node is left.
  if waiting and not (draining and in_service()) and may_serve(node) then bind(waiting, id, 1)
  elseif draining then dismiss(id, 'node_draining')
  else join_pool(id, node) end
  return agent_state(id)
end

-- Serve the waiting line while there is room; before it those who wait for an agent, when a node has got room for them.
local function promote()
  local most = policy('maxSessions') and most_sessions()
  if not most then return end
  for _, session in ipairs(redis.call('ZRANGE', 'session:unbound', 0, -1)) do
    if session_state(session) then
      local warm = take_warm()
      if not warm then break end
      bind(session, warm, 1)
    end
  end
  while live_sessions() < most do
    if redis.call('EXISTS', 'pool:memory_low') == 1 and not warm_with_room() then return end
    local head = redis.call('ZRANGE', 'session:queued', 0, 0)[1]
    if not head then return end
    move_session(head, 'starting')
    serve(head)
  end
end

-- The session of a room is found by the room's name, as long as its record is kept.
local function name_room(room, id) redis.call('SET', 'session:room:' .. room, id) end

-- The live session of a room, if there is one.
local function session_in(room)
  local id = redis.call('GET', 'session:room:' .. room)
  local state = id and session_state(id)
  return state and next(SESSION_MOVES[state]) and id or nil
end

-- A call is counted once when its agent lives and serves no more: the next agents may all fail for the same reason.
-- `lives`: it has not said so itself, and its process is known to live.
local function count_failing(session, cause, lives)
  if not lives and not SERVES_NO_MORE[string.match(cause, '^(%a+_%a+): ')] then return end
  if redis.call('HSETNX', 'session:' .. session, 'failing', 1) == 0 then return end
  redis.call('HINCRBY', 'pool:failing', 'calls', 1)
  redis.call('HSET', 'pool:failing', 'cause', cause)
  redis.call('EXPIRE', 'pool:failing', FAILING_SECONDS)
end

-- Whether an agent has answered: what was said last is its, and what came before it the user's. An agent that keeps no
-- turns has served by being there.
local function answered(id)
  local turns = redis.call('LRANGE', 'session:' .. id .. ':conversation', -2, -1)
  if #turns == 0 then return get('session:' .. id, 'activeAt') end
  return #turns == 2 and cjson.decode(turns[1]).role == 'user' and cjson.decode(turns[2]).role == 'agent'
end

local function drop_agent(id)
  if (agent_state(id) or 'exited') ~= 'exited' then return end
  local key = 'agent:' .. id
  redis.call('DEL', key)
  for _, suffix in ipairs({'logs', 'logs:count', 'logs:bytes', 'logs:offset', 'health', 'boot'}) do
    redis.call('DEL', key .. ':' .. suffix)
  end
end

-- Drop all that is kept of a session that is over.
local function drop_session(id)
  local key = 'session:' .. id
  local fields = redis.call('HMGET', key, 'agentIds', 'roomName', 'request')
  for agent in string.gmatch(fields[1] or '', '[^,]+') do drop_agent(agent) end
  local room = 'session:room:' .. (fields[2] or '')
  if redis.call('GET', room) == id then redis.call('DEL', room) end
  local request = fields[3] and 'idempotency:' .. fields[3]
  if request and get(request, 'session') == id then redis.call('DEL', request, request .. ':answer') end
  redis.call('DEL', key, key .. ':events', key .. ':payload', key .. ':conversation')
  redis.call('ZREM', 'sessions', id)
end

-- Count something as over in `list`, and drop the oldest of it beyond `most`: two at a time, so that a list that is far too
-- long shrinks, and nobody waits for that.
local function keep_last(list, id, most, drop)
  redis.call('ZADD', list, NOW, id)
  if not most then return end
  for _ = 1, math.min(2, redis.call('ZCARD', list) - most) do
    local oldest = redis.call('ZRANGE', list, 0, 0)[1]
    -- Its room is to be deleted first: nobody else would know of it.
    if redis.call('ZSCORE', 'deadlines', 'close|' .. oldest) then return end
    redis.call('ZREM', list, oldest)
    drop(oldest)
  end
end

-- Fields of a session's event whose reason is the last failed boot: the agent whose log tells more.
local function failed_boot(reason)
  local cause, agent = redis.call('GET', 'pool:boot_error'), redis.call('GET', 'pool:boot_error:agent')
  if not cause or not agent or string.sub(reason, 1, #cause) ~= cause then return {} end
  return {'failedAgentId', agent}
end

-- Close the books of a session in whatever live state it is; the bound agent is told to leave.
local function close_session(id, to, reason)
  local key = 'session:' .. id
  local keep = policy('keepSeconds') or 86400
  local fields = redis.call('HMGET', key, 'userId', 'agentId', 'readyAt', 'roomName', 'takeoverAt', 'client', 'network')
  if fields[5] then
    tell('takeover.failed', id .. '_' .. fields[5], {sessionId = id, reason = reason})
    redis.call('HDEL', key, 'takeoverAt')
  end
  move_session(id, to, 'reason', reason, 'endedAt', NOW, unpack(failed_boot(reason)))
  if to == 'error' then count_failing(id, reason)
  elseif not get(key, 'failing') and answered(id) then redis.call('DEL', 'pool:failing') end
  redis.call('DEL', key .. ':payload', key .. ':conversation')
  -- Its room is deleted by whichever node looks next, and again until that has worked.
  if get(key, 'agentIds') then expect('close', id, CLOSE_MS) end
  local user = fields[1]
  redis.call('SREM', 'user:sessions:' .. user, id)
  for i = 6, 7 do
    if fields[i] then redis.call('SREM', 'address:sessions:' .. fields[i], id) end
  end
  if redis.call('GET', 'session:user:' .. user) == id then
    local other = redis.call('SRANDMEMBER', 'user:sessions:' .. user)
    if other then redis.call('SET', 'session:user:' .. user, other) else redis.call('DEL', 'session:user:' .. user) end
  end
  redis.call('HINCRBY', 'pool:stats', to == 'error' and 'total_errors' or 'total_ended', 1)
  local outcomes = 'outcomes:' .. math.floor(NOW / 60000)
  redis.call('HINCRBY', outcomes, to, 1)
  redis.call('EXPIRE', outcomes, (OUTCOME_MINUTES + 1) * 60)
  if fields[3] then
    -- Mean length of about the last ten sessions: what the waiting line is told.
    local length = NOW - tonumber(fields[3])
    local mean = tonumber(get('pool:stats', 'session_ms_mean') or length)
    redis.call('HSET', 'pool:stats', 'session_ms_mean', string.format('%.1f', mean * 0.9 + length * 0.1))
  end
  local agent = fields[2]
  if agent then
    local state = agent_state(agent)
    if state == 'assigned' or state == 'running' then dismiss(agent, reason) end
  end
  redis.call('EXPIRE', key, keep)
  redis.call('EXPIRE', key .. ':events', keep)
  -- A room that was not named by us may have the next session already.
  local room = 'session:room:' .. (fields[4] or '')
  if redis.call('GET', room) == id then redis.call('EXPIRE', room, keep) end
  keep_last('session:over', id, policy('keepCount'), drop_session)
end

-- End a session; the room that it leaves is the waiting line's.
local function end_session(id, to, reason)
  close_session(id, to, reason)
  promote()
end

-- A cause in words as a session's reason: its kind stands in front.
local function as_reason(cause)
  return string.match(cause, '^%a+_%a+: ') and cause or ('agent_lost: ' .. cause)
end

-- The agent of a session can serve it no more: give it another one in the same room, or end it.
-- Returns replaced | waiting | error, or '' when the session has another agent or is over.
local function replace_agent(session, agent, cause)
  local key = 'session:' .. session
  local fields = redis.call('HMGET', key, 'agentId', 'status', 'activeAt')
  if fields[1] ~= agent or (fields[2] ~= 'ready' and fields[2] ~= 'active') then return '' end
  redis.call('HSET', key, 'cause', cause)
  count_failing(session, cause)
  -- Before the call began nobody has noticed: that is a replacement, and does not count as a takeover.
  local name, most = 'replacement', MOST_REPLACEMENTS
  if fields[3] then name, most = 'takeover', policy('takeover') == 0 and 0 or policy('maxTakeovers') or 2 end
  -- One that was dead before it was handed out has not failed this session.
  local count = tonumber(get(key, name .. 's') or 0) + 1
  if cause == FOUND_DEAD or cause == HANDED_OVER then
    count = count - 1
  elseif count > most then
    end_session(session, 'error', as_reason(cause))
    return 'error'
  end
  if count > 0 then redis.call('HSET', key, name .. 's', count) end
  local counted = 'total_' .. name .. 's'
  if cause == HANDED_OVER then
    counted = 'total_handovers'
    -- Before the call began the next agent has nothing to go on with, and greets.
    if fields[3] then redis.call('HINCRBY', key, 'handovers', 1) end
  -- One that dies on its way to a call is part of the takeover that it was to end.
  elseif name == 'takeover' and redis.call('HSETNX', key, 'takeoverAt', NOW) == 1 then
    tell('takeover.started', session .. '_' .. NOW, {sessionId = session, agentId = agent, cause = cause})
  end
  redis.call('HINCRBY', 'pool:stats', counted, 1)
  record(session, name, 'agentId', agent, 'cause', cause)
  move_session(session, 'starting')
  return serve(session) and 'replaced' or 'waiting'
end

-- One more boot has failed by the agent's own fault: the next attempt waits longer, and the fifth opens the breaker. While
-- another node's agents boot, only this node is held back.
local function boot_failed(agent, cause, failed)
  redis.call('HINCRBY', 'pool:stats', 'total_boot_failures', 1)
  redis.call('SET', 'pool:boot_error', cause, 'EX', 300)
  redis.call('SET', 'pool:boot_error:agent', agent, 'EX', 300)
  if failed then
    redis.call('INCR', 'node:' .. failed .. ':failures')
    redis.call('EXPIRE', 'node:' .. failed .. ':failures', NODE_PAUSE_SECONDS)
    for _, node in ipairs(builders()) do
      if node.id ~= failed and boot_failures(node.id) == 0 then return wake() end
    end
  end
  local failures = redis.call('HINCRBY', 'pool:breaker', 'failures', 1)
  local pause = math.min(LONGEST_PAUSE_MS, 1000 * 2 ^ (failures - 1)) * (0.75 + (NOW_US % 1000) / 2000)
  redis.call('DEL', 'pool:proven')
  redis.call('HSET', 'pool:breaker', 'cause', cause, 'agent', agent, 'nextAt', math.floor(NOW + pause))
  expect('refill', '', math.ceil(pause) + 1)
  if failures < BREAKER_FAILURES then return end
  if not get('pool:breaker', 'openedAt') then redis.call('HSET', 'pool:breaker', 'openedAt', NOW) end
  for _, session in ipairs(redis.call('ZRANGE', 'session:unbound', 0, -1)) do
    close_session(session, 'error', as_reason(cause))
  end
end

local function circuit_open()
  return tonumber(get('pool:breaker', 'failures') or 0) >= BREAKER_FAILURES
end

-- An agent's process is gone, or counts as gone. Returns {session id or '', what became of it, state before}.
local function exit_agent(id, cause, ...)
  local before = agent_state(id)
  if not before or before == 'exited' then return {'', '', before or ''} end
  local keep = policy('keepSeconds') or 86400
  local session = get('agent:' .. id, 'sessionId')
  -- What it was told lies unread: it was dead when it was handed out.
  local unread = before == 'assigned' and redis.call('LLEN', 'agent:' .. id .. ':inbox') > 0
  move_agent(id, 'exited', 'cause', cause, 'exitedAt', NOW, ...)
  redis.call('DEL', 'agent:' .. id .. ':pid', 'agent:' .. id .. ':inbox')
  for _, suffix in ipairs({'', ':logs', ':logs:count', ':logs:bytes', ':health'}) do
    redis.call('EXPIRE', 'agent:' .. id .. suffix, keep)
  end
  -- The others go with their sessions.
  if not session then keep_last('agent:over', id, policy('keepCount'), drop_agent) end
  if before == 'starting' then
    redis.call('RPUSH', 'agent:' .. id .. ':boot', cause)
    redis.call('EXPIRE', 'agent:' .. id .. ':boot', 60)
    if string.sub(cause, 1, 5) == 'boot_' then boot_failed(id, cause, get('agent:' .. id, 'node')) else wake() end
  else
    wake()
  end
  if not session or not session_state(session) then return {'', '', before} end
  redis.call('XADD', 'session:' .. session .. ':events', 'MAXLEN', '~', SESSION_EVENTS_KEPT, '*',
    'state', 'agent_exited', 'agentId', id, 'cause', cause, ...)
  return {session, replace_agent(session, id, unread and FOUND_DEAD or cause), before}
end
