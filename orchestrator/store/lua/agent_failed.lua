-- An agent says that it serves its session no more; its process goes by itself.
--
-- KEYS  none
-- ARGV  1 agent id  2 cause in words
--       3 1 when nothing has failed, its process was told to go: another node's agent goes on with the call, or it is over
-- Returns what became of the session: '' (not its own any more) | replaced | waiting | error | ended
--
-- agent:{id} hash, session:{id} hash, session:unbound zset, pool:ready set, deadlines zset
-- include: agents, closing, handover, live_session, policy, records, takeover
local id, cause, told_to_go = ARGV[1], ARGV[2], ARGV[3] == '1'
local state = agent_state(id)
if state ~= 'assigned' and state ~= 'running' then return '' end
local session = get('agent:' .. id, 'sessionId')
move_agent(id, 'stopping', 'reason', cause)
if told_to_go then
  if policy('takeover') == 0 or not can_serve_one_more(get('agent:' .. id, 'node')) then
    if get('session:' .. session, 'agentId') ~= id or not LIVE_SESSION[session_state(session)] then return '' end
    end_session(session, 'ended', cause)
    return 'ended'
  end
  cause = HANDED_OVER
end
return replace_agent(session, id, cause)
