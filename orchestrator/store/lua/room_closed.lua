-- The room of a session that is over is gone.
--
-- KEYS  none
-- ARGV  1 session id
-- Returns 1
--
-- deadlines zset
-- include: deadlines
clear_deadlines(ARGV[1], 'close')
return 1
