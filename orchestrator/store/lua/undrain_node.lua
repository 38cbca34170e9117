-- Put a node in service again and cancel its drain: no call ends because of it any more. A goodbye that the agent has not
-- read yet is removed from the inbox. An agent that has read it and has begun its goodbye leaves; one without a goodbye
-- stays.
--
-- KEYS  none
-- ARGV  1 node id
-- Returns the sessions whose goodbye is cancelled
--
-- nodes:draining set, node:{id} hash (goodbyeMs), session:{state} set, session:{id} hash, session:{id}:events stream
-- agent:{id}:inbox list, session:queued zset, session:unbound zset, pool:wake:{node} list, deadlines zset
-- include: deadlines, events, queue, wake
local node, spared = ARGV[1], {}
redis.call('SREM', 'nodes:draining', node)
clear_deadlines(node, 'drain')
redis.call('HDEL', 'node:' .. node, 'goodbyeMs')
for _, name in ipairs({'session:ready', 'session:active'}) do
  for _, id in ipairs(redis.call('SMEMBERS', name)) do
    local fields = redis.call('HMGET', 'session:' .. id, 'node', 'agentId')
    -- guard: undrain-goodbye
    if fields[1] == node and redis.call('ZREM', 'deadlines', 'goodbye|' .. id) == 1 then
      local inbox = 'agent:' .. fields[2] .. ':inbox'
      for _, text in ipairs(redis.call('LRANGE', inbox, 0, -1)) do
        if cjson.decode(text).type == 'goodbye' then redis.call('LREM', inbox, 1, text) end
      end
      append_event(id, 'goodbye_off')
      spared[#spared + 1] = id
    end
  end
end
wake(node)
-- The queue gets its capacity.
admit_from_queue()
return spared
