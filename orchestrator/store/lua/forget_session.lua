-- Remove a session without a record from the lists of live sessions. It stays if its agent has registered it again
-- meanwhile.
--
-- KEYS  none
-- ARGV  1 session id
-- Returns 1 when it is forgotten, 0 when its record is there
--
-- session:{id} hash, session:{state} set, session:queued zset, session:unbound zset
-- include: live_session, records, session_rows
local id = ARGV[1]
-- guard: forget-lost-only
if session_state(id) then return 0 end
for state in pairs(LIVE_SESSION) do
  local row = session_row(state)
  for _, set in ipairs(row.sets or {}) do redis.call('SREM', set, id) end
  if row.queue then redis.call('ZREM', row.queue, id) end
end
return 1
