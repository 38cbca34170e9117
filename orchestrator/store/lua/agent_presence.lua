-- An agent reports whether the user is in the room with it.
--
-- KEYS  none
-- ARGV  1 session id  2 id of that agent  3 1 = the user is there, 0 = the user is not, and was
--       4 1 = the user's connection was lost: LiveKit has reported it some 20 s late, which counts
-- Returns 1
--
-- session:{id} hash (activeAt, userLost, doubt), session:{state} set, session:{id}:events stream, deadlines zset
-- include: illegal_move, presence, records
local id = ARGV[1]
if get('session:' .. id, 'agentId') ~= ARGV[2] then illegal_move('session', id, 'other agent', 'active') end
local state = session_state(id)
if ARGV[3] == '1' then user_joined(id)
elseif state == 'ready' or state == 'active' then user_left(id, ARGV[4] == '1') end
-- A pending mismatch with LiveKit refers to the agent's previous report (reconcile_room.lua): drop it.
redis.call('HDEL', 'session:' .. id, 'doubt')
return 1
