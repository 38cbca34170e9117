-- LiveKit has assigned the job of a session to us.
--
-- KEYS  none
-- ARGV  1 session id
-- Returns 1
--
-- deadlines zset
-- include: deadlines
clear_deadlines(ARGV[1], 'job')
return 1
