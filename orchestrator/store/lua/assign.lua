-- Start a session: take a warm agent for it, or have one spawned, or put it into the queue.
--
-- KEYS  none
-- ARGV  by name, as name and value in turn; what is not asked for is left out
--       userId, roomName
--       waitingId       id of the session unless it gets its agent's
--       payload         for the agent (JSON, holds its token)
--       affinity        1 when the user is to be served by the node of the last time, if that has a warm agent
--       address         of the client, and network that it is of (IPv4: the address)
--       rateAmount      starts per window, and rateWindowMs
--       perAddress      sessions that one address may have at once, and waitingPerAddress those of them in the queue
--       idempotencyKey  and fingerprint of the request that the key stands for
--       jobId           of the LiveKit job that wants the session: then it is never queued, and refused where its room has
--                       a session. And dispatchId of its dispatch, jobNode whose registration the job came by
-- Returns {outcome, session id, detail, refill, agent id, node, pid, start ticks, shortage}
--       outcome  assigned | starting | queued | existing | repeated | reused (the key, for another request) | limited
--                | full | broken (agents do not boot) | draining | livekit (it does not answer)
--                | many (sessions of this address, or of its network)
--                | occupied (the job's room has a session: that one)
--                | unset (no node has set the store up, or the living still register)
--       detail   limited: ms after which to try again; broken, livekit: the cause; full, for a job: sessions (all are
--                taken), line (others wait for one) or memory; many: sessions or line
--       refill   1 when the caller must queue a refill
--       agent id, node, pid, start ticks   assigned: the agent and its process, which the caller checks once more
--       shortage memory: what is short, as text
--
-- pool:ready              set    warm agents
-- pool:starting           set    booting agents
-- pool:refill             string set while a refill is queued
-- pool:breaker            hash   boot failures in a row
-- session:{id}            hash   the session
-- session:{id}:payload    string what the agent gets
-- session:{id}:events     stream its history
-- session:room:{room}     string the room's newest session
-- session:user:{user}     string the user's newest live session
-- user:sessions:{user}    set    the user's live sessions
-- session:{state}         set    live sessions by state (starting, ready, active)
-- session:unbound         zset   starting sessions without an agent, by time
-- session:queued          zset   the queue
-- sessions                zset   all kept sessions, by time
-- address:sessions:{address}  set  live sessions of an address or a network, where those are counted
-- room:asker:{room}       hash   address and network of who got a token for a room of our naming
-- rate:{address}:{n}      string starts of this address in the n-th window
-- idempotency:{key}       hash   fingerprint and session of an earlier request (session:{id} has the key as `request`)
-- arrivals:{n}            string starts in the n-th bucket of ten seconds
-- livekit:down            string why LiveKit does not answer, while it does not
-- nodes:draining          set    nodes that take no more sessions      nodes  set    all nodes
-- node:{id}               hash   the record of a node
-- node:{id}:warm          set    its warm agents                       node:{id}:busy  set  its agents that have a session
-- user:node:{user}        string the node that served the user last
-- A further session of one user is queued as if it had come this much later.
-- include: addresses, admission, affinity, agents, arguments, arrival_bucket, clock, deadlines, dispatch, enter, events, inbox
-- include: live_session, memory, network_share, policy, rate_limit, rooms, take_warm
-- defer: admit_from_queue
local FAIRNESS_US = 60 * 1000000

local user, waiting_id, room = ARGUMENTS.userId, ARGUMENTS.waitingId, ARGUMENTS.roomName
local address, network = ARGUMENTS.address, ARGUMENTS.network
local idempotency, job, affinity = ARGUMENTS.idempotencyKey, ARGUMENTS.jobId, ARGUMENTS.affinity
local per_address = tonumber(ARGUMENTS.perAddress or 0)
local waiting_per_address = tonumber(ARGUMENTS.waitingPerAddress or 0)
-- guard: living-first
if redis.call('EXISTS', 'policy', 'pool:target') < 2 then return {'unset', '', '', 0} end
read_policy('sessions_per_user', 'max_sessions', 'heartbeat_timeout_seconds', 'join_timeout_seconds', 'user_join_seconds')

if idempotency then
  local earlier = redis.call('HMGET', 'idempotency:' .. idempotency, 'fingerprint', 'session')
  -- guard: idempotency-key
  if earlier[1] then return {earlier[1] == ARGUMENTS.fingerprint and 'repeated' or 'reused', earlier[2], '', 0} end
end

if address and ARGUMENTS.rateAmount then
  local amount, window = tonumber(ARGUMENTS.rateAmount), tonumber(ARGUMENTS.rateWindowMs)
  local wait = rate_limited_with_network('rate', address, network or address, amount, window)
  if wait then return {'limited', '', wait, 0} end
end

local occupant = job and live_session_of_room(room)
if occupant then return {'occupied', occupant, '', 0} end

local held, newest, newest_at = 0, nil, -1
for _, session in ipairs(redis.call('SMEMBERS', 'user:sessions:' .. user)) do
  local fields = redis.call('HMGET', 'session:' .. session, 'status', 'createdAt')
  if LIVE_SESSION[fields[1]] then
    held = held + 1
    if tonumber(fields[2]) > newest_at then newest, newest_at = session, tonumber(fields[2]) end
  else
    redis.call('SREM', 'user:sessions:' .. user, session)
  end
end
-- guard: sessions-per-user
if held >= policy('sessions_per_user') then return {'existing', newest, '', 0} end

local refusal, detail = service_refusal()
if refusal then return {refusal, '', detail, 0} end

if job then
  -- The caller got the token for the room from us.
  local asker = redis.call('HMGET', 'room:asker:' .. room, 'address', 'network')
  address, network = asker[1] or nil, asker[2] or nil
end
local counted, may_wait = {}, true
if address and address ~= '' and per_address + waiting_per_address > 0 then
  counted[1] = {address, 1}
  -- guard: address-network
  if network and network ~= '' and network ~= address then counted[2] = {network, NETWORK_SHARE} end
  for _, each in ipairs(counted) do
    local live, waiting = sessions_of_address(each[1])
    -- guard: sessions-per-address
    if per_address > 0 and live >= per_address * each[2] then return {'many', '', 'sessions', 0} end
    if waiting_per_address > 0 and waiting >= waiting_per_address * each[2] then may_wait = false end
  end
end

-- guard: memory-before-work
require_redis_memory()
local crowded = crowded_by()
local agent, process, shortage
if not crowded then agent, process = take_warm(affinity and remembered_node(user)) end
if not agent then
  refusal, detail, shortage = boot_refusal()
  if refusal == 'broken' then return {refusal, '', detail, 0} end
  crowded = crowded or detail
  -- The caller is in the room already, and would wait in silence.
  if crowded and job then return {'full', '', crowded, 0, '', '', '', '', shortage} end
  if crowded and redis.call('ZCARD', 'session:queued') >= policy('queue_limit') then return {'full', '', '', 0} end
  if crowded and not may_wait then return {'many', '', 'line', 0} end
end

local bucket = 'arrivals:' .. math.floor(NOW / (ARRIVAL_BUCKET_SECONDS * 1000))
-- guard: arrivals
if redis.call('INCR', bucket) == 1 then redis.call('EXPIRE', bucket, 180) end
local id = agent or waiting_id
-- An agent that was booted for a session which another agent then served joins the pool under that session's id, which is
-- in use.
if agent and redis.call('ZSCORE', 'sessions', id) then id = waiting_id end

redis.call('SET', 'session:' .. id .. ':payload', ARGUMENTS.payload)
redis.call('SET', 'session:user:' .. user, id)
redis.call('SADD', 'user:sessions:' .. user, id)
redis.call('ZADD', 'sessions', NOW, id)
for _, each in ipairs(counted) do redis.call('SADD', 'address:sessions:' .. each[1], id) end
set_session_of_room(room, id)
local record = {'userId', user, 'roomName', room, 'client', address or ''}
local function add_fields(...)
  for _, each in ipairs({...}) do record[#record + 1] = each end
end
if #counted > 1 then add_fields('network', network) end
if affinity then
  add_fields('affinity', 1)
  if agent then remember_node(user, process[3]) end
end
local via = {}
if job then
  via = {'via', 'dispatch', 'jobId', job, 'dispatchId', ARGUMENTS.dispatchId}
  add_fields('door', ARGUMENTS.jobNode, unpack(via))
  via[7], via[8] = 'roomName', room
  set_deadline('job', id, JOB_MS)
end
if idempotency then
  redis.call('HSET', 'idempotency:' .. idempotency, 'fingerprint', ARGUMENTS.fingerprint, 'session', id)
  redis.call('EXPIRE', 'idempotency:' .. idempotency, policy_expiry('session_keep_seconds'))
  add_fields('request', idempotency)
end
if agent then
  -- Starting and ready in one step: this is the path that a caller waits for.
  move_agent(agent, 'assigned', 'sessionId', id)
  add_fields('createdAt', NOW, 'agentId', agent, 'agentIds', agent, 'node', process[3] or '', 'agentPid', process[4] or '',
    'prewarmed', 1)
  begin('session', id, 'ready', record)
  append_event(id, 'ready', 'agentId', agent, unpack(via))
  send_assignment(agent, id, ARGUMENTS.payload, NOW, 0, {})
  redis.call('HINCRBY', 'pool:stats', 'total_hits', 1)
else
  process = {}
  add_fields('taskId', id)
  begin('session', id, crowded and 'queued' or 'starting', record, crowded and NOW_US + held * FAIRNESS_US or NOW_US)
  redis.call('HINCRBY', 'pool:stats', 'total_misses', 1)
  if crowded then
    append_event(id, 'queued', 'position', redis.call('ZRANK', 'session:queued', id) + 1)
    admit_from_queue()
    return {'queued', id, '', 0}
  end
  append_event(id, 'starting', unpack(via))
  announce_agent(id)
end
local refill = redis.call('SET', 'pool:refill', '1', 'NX', 'PX', 2000) and 1 or 0
return {agent and 'assigned' or 'starting', id, '', refill,
  agent or '', process[3] or '', process[4] or '', process[5] or ''}
