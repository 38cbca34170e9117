-- Every move of sessions and agents. The row of a state defines its effects (orchestrator/states.py).
-- include: agent_rows, clock, deadlines, illegal_move, lists, policy, reads, records, session_rows
local STATE_FIELD = {session = 'status', agent = 'state'}
local ROW = {session = session_row, agent = agent_row}

-- Everything that follows from entering a state. `record`: those of its fields that matter here, by name; `from`: the row
-- of the state before, nil for a new record.
local function take_effect(id, from, row, record, score)
  change_lists(id, from, row, record.node, row.queue and (score or record.createdAt * 1000))
  if from and row.clears then clear_deadlines(id, unpack(row.clears)) end
  for _, deadline in ipairs(row.deadlines or NONE) do
    if (not deadline.after or record[deadline.after]) and not (deadline.before and record[deadline.before]) then
      local ms = deadline.ms or 0
      for _, name in ipairs(deadline.policy or NONE) do ms = ms + policy_ms(name) end
      if deadline.since then ms = ms + record[deadline.since] - NOW end
      local set = deadline.keeps and set_deadline_if_none or set_deadline
      -- guard: start-deadline
      set(deadline.kind, id, ms)
    end
  end
end

local function overlay(record, fields)
  for i = 1, #fields, 2 do record[fields[i]] = fields[i + 1] end
  return record
end

-- Move a record to another state; further arguments are fields of it. Returns these and the time of the move, where the
-- record does not have that yet. An illegal move is an error before anything is written.
local function enter(kind, id, to, ...)
  local key, row, fields = kind .. ':' .. id, ROW[kind](to), {...}
  local names = {STATE_FIELD[kind], row and row.timestamp or '', unpack(READS[kind])}
  local record = {}
  for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do record[names[i]] = value or nil end
  local before = record[STATE_FIELD[kind]]
  local from = before and ROW[kind](before)
  local legal = from and row and from.moves and string.find(from.moves, ' ' .. to .. ' ', 1, true)
  if not legal then illegal_move(kind, id, before, to) end
  if not record[row.timestamp] then
    fields[#fields + 1], fields[#fields + 2] = row.timestamp, NOW
  end
  if row.forgets then redis.call('HDEL', key, unpack(row.forgets)) end
  redis.call('HSET', key, STATE_FIELD[kind], to, unpack(fields))
  take_effect(id, from, row, overlay(record, fields))
  if row.counts then redis.call('HINCRBY', 'pool:stats', row.counts, 1) end
  return fields
end

-- Write a record in a state; `row` is that of the state.
local function write_record(kind, id, state, row, fields, score)
  local key = kind .. ':' .. id
  local before = get(key, STATE_FIELD[kind])
  if before then illegal_move(kind, id, before, state) end
  redis.call('HSET', key, STATE_FIELD[kind], state, row.timestamp, NOW, unpack(fields))
  take_effect(id, nil, row, overlay({[row.timestamp] = NOW}, fields), score)
end

-- Write a record that Redis has lost, in the state in which it was. `score`: its place in the queue of that state.
local function restore(kind, id, state, fields, score) write_record(kind, id, state, ROW[kind](state), fields, score) end

-- Write a new record, in a state in which records begin.
local function begin(kind, id, state, fields, score)
  local row = ROW[kind](state)
  if not row.begins then illegal_move(kind, id, nil, state) end
  write_record(kind, id, state, row, fields, score)
  if row.counts then redis.call('HINCRBY', 'pool:stats', row.counts, 1) end
end
