-- Raise Redis's own error when it is out of memory, before anything is taken: once the first write of a script was let
-- through, all its writes are, and SPOP always is. This writes nothing.
local function require_redis_memory() redis.call('SETRANGE', 'pool:refill', 0, '') end
