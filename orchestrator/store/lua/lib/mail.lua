-- Put a message into an agent's inbox, and name the agent to the relay of its node, which carries the message. The list of
-- a node that no longer listens expires.
-- include: records, wake_seconds
local function post(agent, text)
  redis.call('RPUSH', 'agent:' .. agent .. ':inbox', text)
  local node = get('agent:' .. agent, 'node')
  if not node then return end
  local mail = 'node:' .. node .. ':mail'
  -- guard: mail
  redis.call('RPUSH', mail, agent)
  -- The relay reads every inbox at heartbeats too: names that are dropped delay their messages only.
  redis.call('LTRIM', mail, -1000, -1)
  redis.call('EXPIRE', mail, WAKE_SECONDS)
end
