-- Announce one more agent for a session whose last one failed to boot.
--
-- KEYS  none
-- ARGV  1 session id  2 new agent id
-- Returns 1, or 0 when the session waits no more
--
-- session:{id} hash, agents set, pool:starting set, agent:{id} hash
if session_state(ARGV[1]) ~= 'starting' then return 0 end
announce_agent(ARGV[2])
return 1
