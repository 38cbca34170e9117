-- An agent's process is gone, or counts as gone. Returns {session id or '', what became of it, state before}.
-- include: agents, boot_failure, events, forgetting, policy, reason_boot_error, reason_boot_timeout, reason_found_dead
-- include: reasons, records, takeover, wake
local function exit_agent(id, cause, ...)
  local before = agent_state(id)
  if not before or before == 'exited' then return {'', '', before or ''} end
  local keep = policy_expiry('session_keep_seconds')
  local session = get('agent:' .. id, 'sessionId')
  -- The assignment is still in its inbox: the agent was dead when it was handed out.
  local unread = before == 'assigned' and redis.call('LLEN', 'agent:' .. id .. ':inbox') > 0
  if before == 'starting' then cause = with_param(cause, 'agentId', id) end
  move_agent(id, 'exited', reason_fields('cause', cause, ...))
  redis.call('DEL', 'agent:' .. id .. ':pid', 'agent:' .. id .. ':inbox')
  for _, suffix in ipairs({'', ':logs', ':logs:count', ':logs:bytes', ':health'}) do
    redis.call('EXPIRE', 'agent:' .. id .. suffix, keep)
  end
  -- Agents that had a session are dropped with it.
  if not session then keep_last('agent:over', id, policy('session_keep_count'), drop_agent) end
  if before == 'starting' then
    redis.call('RPUSH', 'agent:' .. id .. ':boot', cause.text)
    redis.call('EXPIRE', 'agent:' .. id .. ':boot', 60)
    if cause.code == BOOT_ERROR.code or cause.code == BOOT_TIMEOUT.code then record_boot_failure(id, cause, get('agent:' .. id, 'node'))
    else wake() end
  else
    wake()
  end
  if not session or not session_state(session) then return {'', '', before} end
  append_history(session, 'agent_exited', 'agentId', id, reason_fields('cause', cause, ...))
  -- guard: dead-at-assignment
  return {session, replace_agent(session, id, unread and FOUND_DEAD or cause), before}
end
