-- Say whether a LiveKit job would be served now: the answer of assign.lua, without taking anything.
--
-- KEYS  none
-- ARGV  1 node whose door asks
-- Returns {live sessions, most of them, '' or why not, detail, shortage}
--       why not  unset | draining | livekit | full | broken; detail and shortage as in assign.lua
--
-- policy hash, pool:target string, nodes:draining set, nodes set, node:{id} hash, livekit:down string
-- node:{id}:busy set, session:{state} set, session:queued zset, pool:ready set, pool:breaker hash, pool:memory_low string
-- include: admission, policy, session_limit
local max = policy_written() and max_sessions() or 0
local function answer(why, detail, shortage) return {served_sessions(), max, why, detail or '', shortage or ''} end
if redis.call('EXISTS', 'policy', 'pool:target') < 2 then return answer('unset') end
local refusal, detail = service_refusal()
if refusal then return answer(refusal, detail) end
-- A draining node takes no job: it stops soon, and LiveKit would lose track of the job.
if redis.call('SISMEMBER', 'nodes:draining', ARGV[1]) == 1 then return answer('draining') end
local crowded = crowded_by()
if crowded then return answer('full', crowded) end
if redis.call('SCARD', 'pool:ready') == 0 then
  local shortage
  refusal, detail, shortage = boot_refusal()
  if refusal then return answer(refusal, detail, shortage) end
end
return answer('')
