-- Compare a session with LiveKit's report of its room. The agent's reports come first: LiveKit must contradict them in
-- every check for a while. The next check is scheduled here.
--
-- KEYS  none
-- ARGV  1 session id  2 id of the agent that it had before LiveKit was asked ('' = none)  3 1 = there is such a room
--       4 user: there | coming (not fully connected) | gone  5 1 = an agent is in the room
-- Returns what was done: user_gone (its time to come back runs) | user_there (the call is active) | agent_lost (another
--       one takes over) | room_open (of a session that is over: it is deleted) | mismatch (it is checked again) | '' (nothing to do)
--
-- session:{id} hash (doubt), agent:{id} hash, session:room:{room} string, session:{id}:events stream, deadlines zset
-- pool:stats hash
-- include: clock, deadlines, live_session, presence, reason_not_in_room, records, retire, takeover
local id, agent, user = ARGV[1], ARGV[2], ARGV[4]
local key = 'session:' .. id
-- Time between two checks, and time after which a pending mismatch is dropped without another check.
local AGAIN_MS, FRESH_MS = 2000, 15000
-- A missing user counts sooner than a missing agent: after LiveKit itself was away, agents take some seconds to be back.
local PATIENCE_MS = {user_gone = 2000, user_there = 2000, agent_lost = 10000}
local ENTERING_MS = 10000

local state = session_state(id)
if not state then return '' end
local function done(what)
  redis.call('HINCRBY', 'pool:stats', 'look:' .. what, 1)
  return what
end
if not LIVE_SESSION[state] then
  local ours = ARGV[3] == '1' and redis.call('GET', 'session:room:' .. get(key, 'roomName')) == id
  if not ours or redis.call('ZSCORE', 'deadlines', 'close|' .. id) then return '' end
  set_deadline('close', id, 0)
  return done('room_open')
end

-- Since when every check has found this contradiction; nil the first time.
local function contradicted_since(what)
  local finding_before, agent_before, first, last = string.match(get(key, 'doubt') or '', '^(%S+) (%S+) (%d+) (%d+)$')
  if finding_before == what and agent_before == agent and NOW - tonumber(last) <= FRESH_MS then return tonumber(first) end
end
local function keep_mismatch(what, first)
  redis.call('HSET', key, 'doubt', what .. ' ' .. agent .. ' ' .. first .. ' ' .. NOW)
  set_deadline_at_most('look', id, AGAIN_MS)
end

local finding
-- Without an agent in the room it is starting, or being taken over: other deadlines cover that.
-- guard: takeover-agent
-- guard: takeover-state
local served = (state == 'ready' or state == 'active') and get(key, 'agentId') == agent and agent_state(agent) == 'running'
local waits = redis.call('ZSCORE', 'deadlines', 'gone|' .. id)
if served and user == 'gone' and state == 'active' then
  -- When only LiveKit has said that the user is gone, the room is checked until that wait ends: LiveKit may correct itself.
  -- guard: livekit-takes-back
  if not waits or contradicted_since('user_gone') then finding = 'user_gone' end
elseif served and user == 'there' then
  local joined = tonumber(get('agent:' .. agent, 'joinedAt') or get('agent:' .. agent, 'readyAt') or NOW)
  if ARGV[5] == '0' then finding = NOW - joined > ENTERING_MS and 'agent_lost' or nil
  elseif state == 'ready' or waits then finding = 'user_there' end
end
if not finding then
  redis.call('HDEL', key, 'doubt')
  return ''
end

-- guard: second-check
local first = contradicted_since(finding)
-- LiveKit corrects its own report: that needs no second check.
local withdrawn = finding == 'user_there' and waits and contradicted_since('user_gone')
if not withdrawn and (not first or NOW - first < PATIENCE_MS[finding]) then
  keep_mismatch(finding, first or NOW)
  return 'mismatch'
end
if finding == 'user_gone' then
  keep_mismatch(finding, first)
  if waits then return '' end
  user_left(id, false, 'by', 'livekit')
elseif finding == 'user_there' then
  user_joined(id, 'by', 'livekit')
  redis.call('HDEL', key, 'doubt')
else
  retire(agent, NOT_IN_ROOM)
  replace_agent(id, agent, NOT_IN_ROOM)
end
return done(finding)
