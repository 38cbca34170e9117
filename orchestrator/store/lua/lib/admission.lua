-- Whether a start can be served now.
-- include: breaker, nodes, records, session_limit

-- Returns why none is served at all, and the detail; nil when they are. livekit | draining
local function service_refusal()
  local down = redis.call('GET', 'livekit:down')
  -- guard: livekit-down
  if down then return 'livekit', down end
  if not any_node_in_service() and #draining_nodes() > 0 then return 'draining', '' end
end

-- Returns what keeps a new session from a place: sessions (all places are taken) | line (others are queued), or nil.
local function crowded_by()
  -- guard: cap
  if served_sessions() >= max_sessions() then return 'sessions' end
  -- guard: queue-first
  if redis.call('ZCARD', 'session:queued') > 0 then return 'line' end
end

-- Returns why no agent can be booted, the detail, and for `memory` what is short; nil when one can.
-- broken (the detail is the cause) | full (the detail is memory)
local function boot_refusal()
  if breaker_open() then return 'broken', get('pool:breaker', 'cause') end
  local shortage = redis.call('GET', 'pool:memory_low')
  if shortage then return 'full', 'memory', shortage end
end
