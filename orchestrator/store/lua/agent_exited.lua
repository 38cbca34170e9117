-- An agent's process is gone. A session that had not begun its call gets another agent; one in a call ends.
--
-- KEYS  none
-- ARGV  1 agent id  2 cause in words  3 exit code or ''  4 signal or ''  5 seconds to keep the records
--       6 silent_ms (see assign.lua)  7 most replacements per session
-- Returns {session id or '', what became of it, state before}
--       what became of it: '' (no live session) | replaced | waiting | error
--
-- agent:{id} hash, agent:{id}:pid string, agent:{id}:inbox list, agent:{id}:boot list, agents set
-- pool:boot_error string, the cause of the last failed boot for 5 minutes, unset by a boot that works
-- pool:ready set, pool:starting set, session:{id} hash, session:queue zset
local id, cause, code, signal = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local keep, silent_ms, most = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local before = agent_state(id)
if not before or before == 'exited' then return {'', '', before or ''} end
local session = redis.call('HGET', 'agent:' .. id, 'sessionId')
move_agent(id, 'exited', 'cause', cause, 'exitCode', code, 'signal', signal, 'exitedAt', NOW)
redis.call('DEL', 'agent:' .. id .. ':pid', 'agent:' .. id .. ':inbox')
for _, suffix in ipairs({'', ':logs', ':health'}) do redis.call('EXPIRE', 'agent:' .. id .. suffix, keep) end
if before == 'starting' then
  redis.call('RPUSH', 'agent:' .. id .. ':boot', cause)
  redis.call('EXPIRE', 'agent:' .. id .. ':boot', 60)
  redis.call('HINCRBY', 'pool:stats', 'total_boot_failures', 1)
  redis.call('SET', 'pool:boot_error', cause, 'EX', 300)
end
if not session or redis.call('HGET', 'session:' .. session, 'agentId') ~= id then return {'', '', before} end

local state = session_state(session)
local outcome = ''
if state == 'ready' then
  local replacements = redis.call('HINCRBY', 'session:' .. session, 'replacements', 1)
  if replacements > most then
    end_session(session, 'error', 'agent_lost: ' .. cause, keep)
    outcome = 'error'
  else
    local created = redis.call('HGET', 'session:' .. session, 'createdAt')
    move_session(session, 'starting', 'cause', cause)
    local warm = take_warm(silent_ms)
    if warm then
      bind(session, warm, 1)
      outcome = 'replaced'
    else
      redis.call('HDEL', 'session:' .. session, 'agentId', 'agentPid', 'node')
      redis.call('ZADD', 'session:queue', created * 1000, session)
      outcome = 'waiting'
    end
  end
elseif state == 'active' then
  end_session(session, 'error', 'agent_lost: ' .. cause, keep)
  outcome = 'error'
end
return {session, outcome, before}
