-- A living agent whose record Redis has lost reports itself and its session.
--
-- KEYS  none
-- ARGV  1 agent id  2 pid  3 node
--       4 '' for a warm agent, else JSON of its session: id, userId, roomName, createdAt, activeAt (or nil), payload,
--         conversation (array of strings, each a JSON object)
--       5… pids of its ancestors
-- Returns its state; '' when its session is over or another agent's: it leaves; unset while no node has written the policy,
-- which its deadlines depend on: it tries again
--
-- agent:{id} hash, agent:{id}:pid string, agents set, pool:ready set, session:{id} hash, session:{id}:payload string
-- session:{id}:conversation list, session:room:{room} string, session:user:{user} string, user:sessions:{user} set, sessions zset, deadlines zset
-- include: clock, deadlines, enter, events, live_session, policy, records, returning, rooms
if not policy_written() then return 'unset' end
local id, pid, node = ARGV[1], ARGV[2], ARGV[3]
local lineage = table.concat({pid, unpack(ARGV, 5)}, ',')
local function restore_agent(state, ...)
  restore('agent', id, state, {'createdAt', NOW, 'node', node, 'pid', pid, 'lineage', lineage, 'readyAt', NOW,
    'lastBeat', NOW, ...})
  redis.call('SET', 'agent:' .. id .. ':pid', pid)
  append_agent_event(id, state, 'registered', 1)
end
if ARGV[4] == '' then
  if agent_state(id) then return agent_state(id) end
  restore_agent('ready')
  return return_to_pool(id)
end
local reported = cjson.decode(ARGV[4])
local key = 'session:' .. reported.id
local status = session_state(reported.id)
if status then
  if not LIVE_SESSION[status] or get(key, 'agentId') ~= id then return '' end
else
  local active = type(reported.activeAt) == 'number'
  restore('session', reported.id, active and 'active' or 'ready', {'userId', reported.userId, 'roomName', reported.roomName,
    'createdAt', reported.createdAt, 'agentId', id, 'agentIds', id, 'agentPid', pid, 'node', node,
    'readyAt', reported.createdAt, 'prewarmed', 1, unpack(active and {'activeAt', reported.activeAt} or {})})
  -- Its agent is in the room already.
  clear_deadlines(reported.id, 'join')
  redis.call('SET', key .. ':payload', reported.payload)
  if #reported.conversation > 0 then
    redis.call('DEL', key .. ':conversation')
    redis.call('RPUSH', key .. ':conversation', unpack(reported.conversation))
  end
  redis.call('SET', 'session:user:' .. reported.userId, reported.id)
  redis.call('SADD', 'user:sessions:' .. reported.userId, reported.id)
  redis.call('ZADD', 'sessions', reported.createdAt, reported.id)
  set_session_of_room(reported.roomName, reported.id)
  append_event(reported.id, 'registered', 'agentId', id)
end
if not agent_state(id) then restore_agent('running', 'sessionId', reported.id) end
return agent_state(id)
