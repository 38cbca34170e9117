-- A warm agent reports that it leaves: no session may get it.
--
-- KEYS  none
-- ARGV  1 agent id  2 the reason (JSON of code, params, text)
-- Returns its state before, or '' when it is leaving or gone
--
-- agent:{id} hash, pool:ready set, pool:starting set, session:{id} hash, deadlines zset
-- include: unfit
return retire_unfit(ARGV[1], cjson.decode(ARGV[2]))
