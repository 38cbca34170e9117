-- Every move of sessions and agents. What entering a state means is its row (orchestrator/states.py).
-- include: agent_rows, clock, deadlines, illegal_move, lists, policy, records, session_rows
local STATE_FIELD = {session = 'status', agent = 'state'}
local ROW = {session = session_row, agent = agent_row}

local function change_deadlines(kind, id, row)
  clear_deadlines(id, unpack(row.clears))
  local key = kind .. ':' .. id
  for _, deadline in ipairs(row.deadlines) do
    if (not deadline.after or get(key, deadline.after)) and not (deadline.before and get(key, deadline.before)) then
      local ms = deadline.ms
      for _, name in ipairs(deadline.policy) do ms = ms + policy(name) end
      if deadline.since then ms = ms + get(key, deadline.since) - NOW end
      local set = deadline.keeps and set_deadline_if_none or set_deadline
      set(deadline.kind, id, ms)
    end
  end
end

-- The place in a queue is the session's start, in microseconds, unless it is given.
local function place_of(kind, id, row, score)
  return score or row.queue and get(kind .. ':' .. id, 'createdAt') * 1000
end

-- Move a record to another state; further arguments are fields of it. Returns these and the time of the move, where the
-- record does not have that yet. An illegal move is an error before anything is written.
local function enter(kind, id, to, ...)
  local key, row, fields = kind .. ':' .. id, ROW[kind](to), {...}
  local now = redis.call('HMGET', key, STATE_FIELD[kind], 'node', row and row.timestamp or '')
  local from = now[1] and ROW[kind](now[1])
  if not from or not from.moves[to] then illegal_move(kind, id, now[1], to) end
  if not now[3] then
    fields[#fields + 1], fields[#fields + 2] = row.timestamp, NOW
  end
  if #row.forgets > 0 then redis.call('HDEL', key, unpack(row.forgets)) end
  redis.call('HSET', key, STATE_FIELD[kind], to, unpack(fields))
  change_lists(id, from, row, now[2], place_of(kind, id, row))
  change_deadlines(kind, id, row)
  if row.counts then redis.call('HINCRBY', 'pool:stats', row.counts, 1) end
  return fields
end

-- Write a record that Redis has lost, in the state in which it was. `score`: its place in the queue of that state.
local function restore(kind, id, state, fields, score)
  local key, row = kind .. ':' .. id, ROW[kind](state)
  local before = get(key, STATE_FIELD[kind])
  if before then illegal_move(kind, id, before, state) end
  redis.call('HSET', key, STATE_FIELD[kind], state, row.timestamp, NOW, unpack(fields))
  change_lists(id, nil, row, get(key, 'node'), place_of(kind, id, row, score))
  change_deadlines(kind, id, row)
end

-- Write a new record, in a state in which records begin.
local function begin(kind, id, state, fields, score)
  local row = ROW[kind](state)
  if not row.begins then illegal_move(kind, id, nil, state) end
  restore(kind, id, state, fields, score)
  if row.counts then redis.call('HINCRBY', 'pool:stats', row.counts, 1) end
end
