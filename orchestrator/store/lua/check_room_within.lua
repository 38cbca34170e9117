-- Have a node check a session's room at LiveKit within some time; a check that is due sooner stays.
--
-- KEYS  none
-- ARGV  1 session id  2 ms
-- Returns 1, or 0 for an unknown session
--
-- session:{id} hash, deadlines zset
-- include: deadlines, records
if not session_state(ARGV[1]) then return 0 end
set_deadline_at_most('look', ARGV[1], tonumber(ARGV[2]))
return 1
