-- What is left on a node: {sessions that it serves or whose room is still open, living agents}.
-- include: records
local function left_on_node(node)
  local ids, sessions, agents = redis.call('SUNION', 'session:ready', 'session:active'), 0, 0
  for _, member in ipairs(redis.call('ZRANGE', 'deadlines', 0, -1)) do
    ids[#ids + 1] = string.match(member, '^close|(.*)$')
  end
  for _, id in ipairs(ids) do
    if get('session:' .. id, 'node') == node then sessions = sessions + 1 end
  end
  for _, id in ipairs(redis.call('SMEMBERS', 'agents')) do
    if get('agent:' .. id, 'node') == node then agents = agents + 1 end
  end
  return {sessions, agents}
end
