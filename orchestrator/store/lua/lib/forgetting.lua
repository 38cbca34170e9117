-- Dropping the records of what is over.
-- include: clock, records
local function drop_agent(id)
  if (agent_state(id) or 'exited') ~= 'exited' then return end
  local key = 'agent:' .. id
  redis.call('DEL', key)
  for _, suffix in ipairs({'logs', 'logs:count', 'logs:bytes', 'logs:offset', 'logs:closed', 'health', 'boot'}) do
    redis.call('DEL', key .. ':' .. suffix)
  end
end

-- Drop a session with its agents.
local function drop_session(id)
  local key = 'session:' .. id
  local fields = redis.call('HMGET', key, 'agentIds', 'roomName', 'request')
  for agent in string.gmatch(fields[1] or '', '[^,]+') do drop_agent(agent) end
  local room = 'session:room:' .. (fields[2] or '')
  if redis.call('GET', room) == id then redis.call('DEL', room) end
  local request = fields[3] and 'idempotency:' .. fields[3]
  if request and get(request, 'session') == id then redis.call('DEL', request, request .. ':answer') end
  redis.call('DEL', key, key .. ':events', key .. ':payload', key .. ':conversation')
  redis.call('ZREM', 'sessions', id)
end

-- Add something that is over to `list`, and drop the oldest entries beyond `max`: two at a time, so that a list that is far
-- too long shrinks without holding Redis up.
local function keep_last(list, id, max, drop)
  redis.call('ZADD', list, NOW, id)
  for _ = 1, math.min(2, redis.call('ZCARD', list) - max) do
    local oldest = redis.call('ZRANGE', list, 0, 0)[1]
    -- Its room must be deleted first: only the record names it.
    if redis.call('ZSCORE', 'deadlines', 'close|' .. oldest) then return end
    redis.call('ZREM', list, oldest)
    drop(oldest)
  end
end
