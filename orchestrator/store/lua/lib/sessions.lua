-- Moves of sessions, with the deadlines that each state sets and clears.
-- include: deadlines, events, illegal_move, policy, records, session_moves
local SESSION_SET = {starting = 'session:starting', ready = 'session:ready', active = 'session:active'}

-- Move a session; further arguments are fields of its hash and of its event.
local function move_session(id, to, ...)
  local from = session_state(id)
  if not from or not SESSION_MOVES[from] or not SESSION_MOVES[from][to] then illegal_move('session', id, from, to) end
  if SESSION_SET[from] then redis.call('SREM', SESSION_SET[from], id) end
  if SESSION_SET[to] then redis.call('SADD', SESSION_SET[to], id) end
  redis.call('ZREM', 'session:queued', id)
  redis.call('ZREM', 'session:unbound', id)
  redis.call('HSET', 'session:' .. id, 'status', to, ...)
  -- A pending mismatch with LiveKit refers to the previous state.
  redis.call('HDEL', 'session:' .. id, 'doubt')
  append_event(id, to, ...)
  if to == 'starting' then
    -- The goodbye was for the lost agent, whose node stops; the next agent may be on another node.
    clear_deadlines(id, 'queue', 'join', 'goodbye', 'room')
    redis.call('HDEL', 'session:' .. id, 'refused')
    set_deadline('start', id, policy('startMs'))
  elseif to == 'ready' then
    clear_deadlines(id, 'start')
    set_deadline('join', id, policy('joinMs'))
    if get('session:' .. id, 'activeAt') then
      set_deadline_if_none('gone', id, policy('joinMs') + policy('userGoneMs'))
    else
      set_deadline_if_none('user', id, policy('userJoinMs'))
    end
  elseif to == 'active' then
    -- A call that goes on does not end because LiveKit has not confirmed its job.
    clear_deadlines(id, 'join', 'user', 'gone', 'job')
    set_deadline_if_none('max', id, policy('maxMs'))
  else
    clear_deadlines(id, 'queue', 'start', 'join', 'user', 'gone', 'max', 'goodbye', 'job', 'look', 'room')
  end
end
