-- An agent cannot join its room, because LiveKit neither has nor creates it. A node creates it; the agent tries again.
--
-- KEYS  none
-- ARGV  1 agent id  2 LiveKit's words
-- Returns 1, or 0 when the agent has no session to join
--
-- agent:{id} hash, session:{id} hash (refused: LiveKit's words, until an agent has joined), deadlines zset
-- include: deadlines, records
local session = get('agent:' .. ARGV[1], 'sessionId')
if not session or get('session:' .. session, 'agentId') ~= ARGV[1] or agent_state(ARGV[1]) ~= 'assigned' then return 0 end
redis.call('HSET', 'session:' .. session, 'refused', ARGV[2])
-- guard: make-room
set_deadline('room', session, 0)
return 1
