-- Start a session: take a warm agent for it, or put it in line for one that is to be spawned.
--
-- KEYS  none (see _prelude.lua)
-- ARGV  1 user id  2 id of the session unless it gets its agent's  3 room name
--       4 payload for the agent (JSON, holds its token)  5 payload lifetime in s  6 most live sessions
--       7 silent_ms: an agent without a heartbeat for longer is not handed out
--       8 client address ('' = no rate limit)  9 starts per window  10 window in ms
-- Returns {outcome, session id, detail, refill, agent id, node, pid, start ticks}
--       outcome  assigned | starting | existing | limited | full
--       detail   limited: ms after which to try again
--       refill   1 when the caller must queue a refill
--       agent id, node, pid, start ticks   assigned: the agent and its process, for a last look at it
--
-- pool:ready            set    warm agents
-- pool:starting         set    booting agents
-- pool:refill           string set while a refill is queued
-- session:{id}          hash   the session
-- session:{id}:payload  string what the agent gets
-- session:{id}:events   stream its history
-- session:user:{user}   string the user's live session
-- session:{state}       set    live sessions by state (starting, ready, active)
-- session:queue         zset   sessions that wait for an agent, by time
-- sessions              zset   all kept sessions, by time
-- rate:{address}:{n}    string starts of this address in the n-th window
local user, waiting_id, room, payload, payload_ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local max_sessions, silent_ms = tonumber(ARGV[6]), tonumber(ARGV[7])
local address, amount, window = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])

-- Sliding window counter: this window's count plus the share of the last one that still lies within it.
if address ~= '' then
  local index = math.floor(NOW / window)
  local passed = (NOW % window) / window
  local key = 'rate:' .. address .. ':'
  local current = tonumber(redis.call('GET', key .. index) or 0)
  local last = tonumber(redis.call('GET', key .. (index - 1)) or 0)
  if current + last * (1 - passed) >= amount then
    local wait
    if current >= amount then wait = (1 - passed) + (1 - amount / current)
    else wait = 1 - (amount - current) / last - passed end
    return {'limited', '', math.ceil(wait * window) + 1, 0}
  end
  redis.call('SET', key .. index, current + 1, 'PX', window * 2)
end

local existing = redis.call('GET', 'session:user:' .. user)
if existing then
  local state = session_state(existing)
  if state and next(SESSION_MOVES[state]) then return {'existing', existing, '', 0} end
end

local live = redis.call('SCARD', 'session:starting') + redis.call('SCARD', 'session:ready')
  + redis.call('SCARD', 'session:active')
if live >= max_sessions then return {'full', '', '', 0} end

local agent, process = take_warm(silent_ms)
local id = agent or waiting_id
-- An agent that was announced for a session which another one then served comes to the pool with that session's name.
if agent and redis.call('EXISTS', 'session:' .. id) == 1 then id = waiting_id end

redis.call('SET', 'session:' .. id .. ':payload', payload, 'EX', payload_ttl)
redis.call('SET', 'session:user:' .. user, id)
redis.call('ZADD', 'sessions', NOW, id)
if agent then
  -- Starting and ready in one step: this is the path that a caller waits for.
  move_agent(agent, 'assigned', 'sessionId', id)
  redis.call('HSET', 'session:' .. id, 'status', 'ready', 'userId', user, 'roomName', room, 'createdAt', NOW,
    'agentId', agent, 'agentIds', agent, 'node', process[3] or '', 'agentPid', process[4] or '',
    'readyAt', NOW, 'prewarmed', 1)
  redis.call('SADD', 'session:ready', id)
  record(id, 'ready', 'agentId', agent)
  tell_agent(agent, id, payload)
  redis.call('HINCRBY', 'pool:stats', 'total_assigned', 1)
  redis.call('HINCRBY', 'pool:stats', 'total_hits', 1)
else
  process = {}
  redis.call('HSET', 'session:' .. id, 'status', 'starting', 'userId', user, 'roomName', room, 'createdAt', NOW,
    'taskId', id)
  redis.call('SADD', 'session:starting', id)
  record(id, 'starting')
  redis.call('ZADD', 'session:queue', NOW_US, id)
  redis.call('HINCRBY', 'pool:stats', 'total_misses', 1)
  announce_agent(id)
end
local refill = redis.call('SET', 'pool:refill', '1', 'NX', 'PX', 2000) and 1 or 0
return {agent and 'assigned' or 'starting', id, '', refill,
  agent or '', process[3] or '', process[4] or '', process[5] or ''}
