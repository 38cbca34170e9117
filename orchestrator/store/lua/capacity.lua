-- Say whether a LiveKit job would be served now: the answer of assign.lua, without taking anything.
--
-- KEYS  none
-- ARGV  1 node whose door asks
-- Returns {live sessions, most of them, '' or why not, detail}
--       why not  unset | draining | livekit | full | broken; detail as in assign.lua
--
-- policy hash, pool:target string, nodes:draining set, nodes set, node:{id} hash, livekit:down string
-- node:{id}:busy set, session:{state} set, session:queued zset, pool:ready set, pool:breaker hash, pool:memory_low string
-- include: breaker, nodes, policy, records, session_limit
local most = policy_written() and max_sessions() or 0
local function answer(why, detail) return {served_sessions(), most, why, detail or ''} end
if redis.call('EXISTS', 'policy', 'pool:target') < 2 then return answer('unset') end
local down = redis.call('GET', 'livekit:down')
if down then return answer('livekit', down) end
-- Jobs are better taken by another node's door: this one's will soon be gone, and LiveKit's say over its jobs with it.
if redis.call('SISMEMBER', 'nodes:draining', ARGV[1]) == 1 then return answer('draining') end
if redis.call('SCARD', 'nodes:draining') > 0 and not any_node_in_service() then return answer('draining') end
if served_sessions() >= most then return answer('full', 'sessions') end
if redis.call('ZCARD', 'session:queued') > 0 then return answer('full', 'line') end
if redis.call('SCARD', 'pool:ready') == 0 then
  if breaker_open() then return answer('broken', get('pool:breaker', 'cause')) end
  local shortage = redis.call('GET', 'pool:memory_low')
  if shortage then return answer('full', shortage) end
end
return answer('')
