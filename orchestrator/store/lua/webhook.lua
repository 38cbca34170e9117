-- A webhook of LiveKit, whose signature is verified. It may come late, twice, or out of order, so it moves no
-- session: it makes a node check the room itself.
--
-- KEYS  none
-- ARGV  1 id of the event  2 its name  3 room ('' = of none)  4 when it was made, Unix seconds
--       5 how many events LiveKit has dropped before it
-- Returns recorded | foreign (a room that is not ours, or none) | replayed | stale
--
-- webhook:{id} string, session:room:{room} string, session:{id}:events stream, deadlines zset, pool:stats hash
-- include: clock, deadlines, events, live_session, records
local id, event, room = ARGV[1], ARGV[2], ARGV[3]
-- LiveKit sends an event again for less than a minute; an older one comes from another sender, or from a
-- server with another clock. Its id is remembered for longer than it is accepted.
local OLDEST_MS, REMEMBER_S = 600000, 1800
-- Events that mean that a participant has come or gone; and those that happen in the room of a session that is over only
-- when it is entered again.
local MOVED = {participant_joined = true, participant_left = true, participant_connection_aborted = true,
  room_finished = true}
local ENTERED = {room_started = true, participant_joined = true}
-- Requested rounds are at least this far apart: LiveKit drops events when it is overloaded.
local ROUND_MS = 2000

local result = 'recorded'
if math.abs(NOW - tonumber(ARGV[4]) * 1000) > OLDEST_MS then
  result = 'stale'
-- guard: webhook-once
elseif not redis.call('SET', 'webhook:' .. id, '1', 'NX', 'EX', REMEMBER_S) then
  result = 'replayed'
else
  local session = room ~= '' and redis.call('GET', 'session:room:' .. room)
  local state = session and session_state(session)
  if not state then
    result = 'foreign'
  else
    if event == 'participant_connection_aborted' then append_event(session, 'webhook', 'event', event) end
    local telling = LIVE_SESSION[state] and MOVED or ENTERED
    if telling[event] then set_deadline('look', session, 0) end
  end
  if tonumber(ARGV[5]) > 0 then
    local planned = tonumber(redis.call('ZSCORE', 'deadlines', 'reconcile|'))
    if not planned or planned > counted_from() + ROUND_MS then set_deadline('reconcile', '', ROUND_MS) end
  end
end
redis.call('HINCRBY', 'pool:stats', 'webhook:' .. event .. ':' .. result, 1)
return result
