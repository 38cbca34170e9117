-- The delivery of an alert is queued.
--
-- KEYS  none
-- ARGV  1 alert id
-- Returns 1
--
-- deadlines zset, alert:{id} string
-- include: deadlines
clear_deadlines(ARGV[1], 'alert')
redis.call('DEL', 'alert:' .. ARGV[1])
return 1
