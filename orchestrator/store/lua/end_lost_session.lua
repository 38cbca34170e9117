-- End a session whose agent has no record, or take one that has no record itself out of the lists of those that are not
-- over. An agent that lives may have registered both again since they were missed: then nothing happens.
--
-- KEYS  none
-- ARGV  1 session id  2 the reason (JSON of code, params, text)
-- Returns ended | forgotten | '' when nothing is lost
--
-- session:{id} hash, session:{state} set, session:queued zset, session:unbound zset, agent:{id} hash, pool:ready set
-- pool:stats hash, deadlines zset
-- include: closing, live_session, queue, records, session_rows
local id = ARGV[1]
local status = session_state(id)
if status then
  local agent = get('session:' .. id, 'agentId')
  -- guard: end-lost-only
  if not agent or agent_state(agent) or (status ~= 'ready' and status ~= 'active') then return '' end
  end_session(id, 'error', cjson.decode(ARGV[2]))
  return 'ended'
end
for state in pairs(LIVE_SESSION) do
  local row = session_row(state)
  for _, set in ipairs(row.sets or {}) do redis.call('SREM', set, id) end
  if row.queue then redis.call('ZREM', row.queue, id) end
end
-- It has counted until now.
admit_from_queue()
return 'forgotten'
