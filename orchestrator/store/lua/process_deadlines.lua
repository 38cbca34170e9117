-- Act on every deadline that has passed. This is the one place that decides what happens then:
--
--   boot     agent is not warm in time, or no node claimed it    it has exited; what waits gets the next
--   beat     agent is silent                                     its session gets another agent; it is stopped
--   stop     agent was told to leave and lives                   it is stopped, TERM then KILL
--   start    session has no agent                                error
--   join     agent is not in the room                            its session gets another agent; it is stopped. Where
--                                                                LiveKit refuses every agent: error, in LiveKit's words
--   user     user has not joined                                 ended, the agent is free
--   gone     user has left and stays away                        ended
--   max      session has lasted too long                         ended
--   queue    session has waited too long in the queue                error
--   room     LiveKit has no such room, and makes none by itself          it is made
--   job      LiveKit has not said that the job is ours           error, unless the call goes on
--   drain    node's calls must end soon                          another node's agents go on with them; where there is
--                                                                no other node, agents say goodbye
--   goodbye  they have had their time                            ended
--   refill   boots had failed, and the pause is over             refill
--   close    session is over, and its room is not known to be    its room is deleted
--   look     something may have happened in a session's room             LiveKit is asked who is there
--   reconcile  every so often; also when LiveKit has lost webhooks       LiveKit is asked about all rooms
--   alert    an event is enqueued for the operator's webhook            its delivery is queued
--
-- KEYS  none
-- ARGV  1 most to act on in one go
-- Returns a list of {what, id, node}: what the caller has to do
--       stop (agent id, node) | close (session id, '': delete its room, and take the deadline away) | refill
--       room (session id, '': make its room)
--       look (session id, '') | reconcile: report to reconcile_room.lua what LiveKit says of it, or of all
--       alert (alert id, '': queue its delivery, and take the deadline away)
--
-- deadlines zset, deadlines:looked string, livekit:down string, alert:{id} string, and what the moves touch
-- include: agents, busy_agent, clock, closing, deadlines, dispatch, events, exit, failed_boot, failing_calls, handover
-- include: late_node, live_session, mail, policy, reason_boot_timeout, reason_handed_over, reason_job_lost
-- include: reason_join_refused, reason_join_timeout, reason_max_duration, reason_no_heartbeat, reason_node_stopping
-- include: reason_queue_timeout, reason_start_timeout, reason_unclaimed, reason_user_gone, reason_user_lost
-- include: reason_user_never_joined, reasons, records, retire, takeover
local checked_at = tonumber(redis.call('GET', 'deadlines:looked') or NOW)
redis.call('SET', 'deadlines:looked', NOW)
-- No node has checked for a while: Redis or every node was away, and nothing could meet a deadline. Or the
-- clock was set. Either way that time does not count, or every wait would be over at once, or too long.
local missed = NOW - checked_at
-- guard: blind-time
if math.abs(missed) > PAUSE_MS then
  local flat = redis.call('ZRANGE', 'deadlines', 0, -1, 'WITHSCORES')
  for i = 1, #flat, 2 do redis.call('ZADD', 'deadlines', tonumber(flat[i + 1]) + missed, flat[i]) end
end
local actions = {}
local function act(what, id, node) actions[#actions + 1] = {what, id, node or ''} end
local function stop(id) act('stop', id, get('agent:' .. id, 'node')) end
local function live(id)
  return LIVE_SESSION[session_state(id)]
end

local on_timeout = {}
-- guard: boot-timeout
function on_timeout.boot(id)
  if agent_state(id) ~= 'starting' then return end
  if get('agent:' .. id, 'spawnedAt') then
    exit_agent(id, reason(BOOT_TIMEOUT, {seconds = policy('boot_timeout_seconds')}))
    stop(id)
  else
    -- guard: boot-unclaimed
    exit_agent(id, UNCLAIMED)
  end
end
-- guard: heartbeat-timeout
function on_timeout.beat(id)
  local state = agent_state(id)
  if state ~= 'ready' and state ~= 'assigned' and state ~= 'running' then return end
  local cause = reason(NO_HEARTBEAT, {seconds = (NOW - tonumber(get('agent:' .. id, 'lastBeat') or NOW)) / 1000})
  local session = get('agent:' .. id, 'sessionId')
  move_agent(id, 'stopping', reason_fields('reason', cause))
  if session then
    -- Its node would have reported its death: it lives, and its event loop or its way to Redis is blocked. A node that is
    -- late itself may have vanished, and its agents with it.
    local node = get('agent:' .. id, 'node')
    -- guard: silent-fails
    if node and redis.call('PTTL', 'node:' .. node) >= LATE_NODE_MS then count_failing_call(session, cause, true) end
    replace_agent(session, id, cause)
  end
  stop(id)
end
function on_timeout.stop(id)
  if agent_state(id) ~= 'stopping' then return end
  set_deadline('stop', id, 5000)
  stop(id)
end
-- guard: start-timeout
function on_timeout.start(id)
  if session_state(id) ~= 'starting' then return end
  end_session(id, 'error', last_failed_boot() or reason(START_TIMEOUT, {seconds = policy('start_timeout_seconds')}))
end
function on_timeout.join(id)
  local agent = get('session:' .. id, 'agentId')
  if session_state(id) ~= 'ready' or not agent then return end
  -- It is LiveKit that is away: another agent could not join either.
  local patience = policy_ms('join_timeout_seconds')
  -- guard: livekit-down-join
  if redis.call('EXISTS', 'livekit:down') == 1 then return set_deadline('join', id, patience) end
  local cause = reason(JOIN_TIMEOUT, {seconds = patience / 1000})
  local state = agent_state(agent)
  local refused = get('session:' .. id, 'refused')
  if refused then
    end_session(id, 'error', reason(JOIN_REFUSED, {detail = refused}))
    return stop(agent)
  end
  if state == 'assigned' or state == 'running' then move_agent(agent, 'stopping', reason_fields('reason', cause)) end
  replace_agent(id, agent, cause)
  stop(agent)
end
function on_timeout.user(id)
  if session_state(id) == 'ready' then
    end_session(id, 'ended', reason(USER_NEVER_JOINED, {seconds = policy('user_join_seconds')}))
  end
end
function on_timeout.gone(id)
  if not live(id) then return end
  local patience = policy_ms('user_gone_seconds')
  -- Nobody can come back while LiveKit is away; how long a call may last at most is another wait.
  if get('session:' .. id, 'activeAt') and redis.call('EXISTS', 'livekit:down') == 1 then
    return set_deadline('gone', id, patience)
  end
  local lost = get('session:' .. id, 'userLost') == '1'
  end_session(id, 'ended', lost and USER_LOST or reason(USER_GONE, {seconds = patience / 1000}))
end
function on_timeout.max(id)
  if live(id) then
    end_session(id, 'ended', reason(MAX_DURATION, {seconds = policy('max_session_seconds')}))
  end
end
function on_timeout.queue(id)
  -- guard: queue-timeout
  if session_state(id) == 'queued' then
    -- The policy may be another one by now than when the wait began.
    local waited = math.floor((NOW - get('session:' .. id, 'createdAt')) / 100 + 0.5) / 10
    end_session(id, 'error', reason(QUEUE_TIMEOUT, {seconds = waited}))
  end
end
function on_timeout.job(id)
  if live(id) then
    end_session(id, 'error', reason(JOB_LOST, {seconds = JOB_MS / 1000}))
  end
end
function on_timeout.drain(node)
  if redis.call('SISMEMBER', 'nodes:draining', node) == 0 then return end
  for _, name in ipairs({'session:ready', 'session:active'}) do
    for _, id in ipairs(redis.call('SMEMBERS', name)) do
      local fields = redis.call('HMGET', 'session:' .. id, 'node', 'agentId')
      -- guard: handover
      -- guard: handover-capacity
      if fields[1] == node and policy('takeover') ~= 0 and can_serve_one_more() then
        if BUSY[agent_state(fields[2])] then retire(fields[2], HANDED_OVER) end
        replace_agent(id, fields[2], HANDED_OVER)
      elseif fields[1] == node then
        local goodbye_ms = tonumber(get('node:' .. node, 'goodbyeMs') or policy_ms('goodbye_seconds'))
        -- guard: goodbye
        post(fields[2], cjson.encode({type = 'goodbye', seconds = goodbye_ms / 1000, at = NOW}))
        set_deadline('goodbye', id, goodbye_ms)
        append_event(id, 'goodbye')
      end
    end
  end
end
-- guard: goodbye-timeout
function on_timeout.goodbye(id)
  if live(id) then end_session(id, 'ended', NODE_STOPPING) end
end
function on_timeout.refill() act('refill', '') end
function on_timeout.close(id)
  if not session_state(id) then return end
  -- guard: close-room
  set_deadline('close', id, 5000)
  act('close', id)
end
function on_timeout.room(id)
  if session_state(id) == 'ready' then act('room', id) end
end
function on_timeout.look(id)
  if session_state(id) then act('look', id) end
end
function on_timeout.reconcile() act('reconcile', '') end

function on_timeout.alert(id)
  if redis.call('EXISTS', 'alert:' .. id) == 0 then return end
  set_deadline('alert', id, 30000)
  act('alert', id)
end

local due = redis.call('ZRANGEBYSCORE', 'deadlines', '-inf', NOW, 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do
  local kind, id = string.match(member, '^(%a+)|(.*)$')
  redis.call('ZREM', 'deadlines', member)
  if on_timeout[kind] then on_timeout[kind](id) end
end
-- One node at a time does the next round. It is spread so that deployments sharing one LiveKit do not all reconcile at once.
-- Not before a node has set the store up: the default of RECONCILE_SECONDS would stand for the first round.
if redis.call('EXISTS', 'policy') == 1 then
  -- guard: next-reconciliation
  set_deadline_if_none('reconcile', '', math.floor(policy_ms('reconcile_seconds') * (2 / 3 + NOW_US % 1000 / 1500)))
end
return actions
