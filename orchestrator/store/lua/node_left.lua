-- Count what is left on a node.
--
-- KEYS  none
-- ARGV  1 node id
-- Returns {sessions that it serves or whose room is still open, living agents on it}
--
-- session:{state} set, session:{id} hash, agents set, agent:{id} hash, deadlines zset
-- include: left_on_node
return left_on_node(ARGV[1])
