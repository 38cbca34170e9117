-- End a session and have its agent leave. Idempotent.
--
-- KEYS  none
-- ARGV  1 session id  2 ended | error  3 the reason (JSON of code, params, text)
-- Returns {1 when this call ended it, status}, or nothing for an unknown session
--
-- session:{id} hash, session:{id}:payload string, session:{id}:events stream, session:user:{user} string
-- session:{state} set, session:queued zset, session:unbound zset, agent:{id} hash, agent:{id}:inbox list
-- pool:stats hash, deadlines zset
-- include: ending, records
if not session_state(ARGV[1]) then return false end
return end_if_live(ARGV[1], ARGV[2], cjson.decode(ARGV[3]))
