-- The agent says whether the user is in the room with it.
--
-- KEYS  none
-- ARGV  1 session id  2 id of the agent that says so  3 1 = the user is there, 0 = the user is not, and was
--       4 1 = the user's connection was lost: LiveKit has waited some 20 s before it said so, and that counts
-- Returns 1
--
-- session:{id} hash (activeAt, userLost), session:{state} set, session:{id}:events stream, deadlines zset
local id = ARGV[1]
if get('session:' .. id, 'agentId') ~= ARGV[2] then refuse('session', id, 'other agent', 'active') end
local state = session_state(id)
if ARGV[3] == '1' then
  if state == 'active' then
    if redis.call('ZREM', 'deadlines', 'gone|' .. id) == 1 then record(id, 'user_back') end
  else
    move_session(id, 'active', 'activeAt', get('session:' .. id, 'activeAt') or NOW)
  end
elseif state == 'ready' or state == 'active' then
  met(id, 'user')
  local lost = ARGV[4] == '1'
  expect_once('gone', id, (policy('userGoneMs') or 20000) / (lost and 4 or 1))
  redis.call('HSET', 'session:' .. id, 'userLost', lost and 1 or 0)
  record(id, lost and 'user_lost' or 'user_left')
end
return 1
