-- Take one unfit agent out of service; its session, if any, gets another agent at once.
--
-- KEYS  none
-- ARGV  1 agent id  2 the reason (JSON of code, params, text)
-- Returns its state before, or '' when it is leaving or gone
--
-- agent:{id} hash, pool:ready set, pool:starting set, session:{id} hash, deadlines zset
-- include: unfit
return retire_unfit(ARGV[1], cjson.decode(ARGV[2]))
