-- Reading the hashes of sessions and agents.
local function get(key, field) return redis.call('HGET', key, field) or nil end
local function session_state(id) return get('session:' .. id, 'status') end
local function agent_state(id) return get('agent:' .. id, 'state') end
