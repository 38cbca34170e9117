-- The user of a session can hear its agent. The first time counts.
--
-- KEYS  session:{id}
-- ARGV  1 session id  2 id of the agent
-- Returns 1 when this is the first time, and the session is that agent's
--
-- session:{id} hash (firstAudioAt), session:{id}:events stream, histogram:{name} hash, recent:{name} list
-- include: clock, events, histograms, records
-- guard: first-audio-agent
if get(KEYS[1], 'agentId') ~= ARGV[2] then return 0 end
if not session_state(ARGV[1]) then return 0 end
if redis.call('HSETNX', KEYS[1], 'firstAudioAt', NOW) == 0 then return 0 end
append_event(ARGV[1], 'first_audio')
-- Measured from when the user was there to hear it.
local moments = redis.call('HMGET', KEYS[1], 'activeAt', 'readyAt')
observe('first_audio', ms_since(moments[1] or moments[2]))
return 1
