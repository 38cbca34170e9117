-- Events for the operator's webhook. They are kept for as long as it may take to queue their delivery.
-- include: clock, deadlines, policy
local ALERT_KEPT_SECONDS = 3600

-- Enqueue an event: the next node that processes deadlines queues its delivery. The kind and `unique` make the message's
-- id, by which the receiver detects a repetition.
local function enqueue_alert(kind, unique, data)
  if policy('alert_webhooks') ~= 1 then return end
  local id = string.gsub(kind, '%.', '_') .. '_' .. unique
  redis.call('SET', 'alert:' .. id, cjson.encode({type = kind, at = NOW, data = data}), 'EX', ALERT_KEPT_SECONDS)
  set_deadline('alert', id, 0)
end
