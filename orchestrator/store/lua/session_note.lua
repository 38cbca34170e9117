-- Note something about a session once, with its time: the first sound of its agent, for one.
--
-- KEYS  session:{id}
-- ARGV  1 session id  2 field (gets the time)  3 name of the event
-- Returns 1 when it was noted now
--
-- session:{id}  hash       session:{id}:events  stream       histogram:{name} hash, recent:{name} list
-- include: clock, events, histograms, records
if not session_state(ARGV[1]) then return 0 end
local first = redis.call('HSETNX', KEYS[1], ARGV[2], NOW)
if first == 1 then
  append_event(ARGV[1], ARGV[3])
  if ARGV[3] == 'first_audio' then
    -- Since somebody was there to hear it.
    local moments = redis.call('HMGET', KEYS[1], 'activeAt', 'readyAt')
    observe('first_audio', ms_since(moments[1] or moments[2]))
  end
end
return first
