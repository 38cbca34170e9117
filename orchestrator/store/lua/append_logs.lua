-- Append lines to an agent's log, and drop the oldest beyond a number of lines and of bytes.
--
-- KEYS  1 agent:{id}:logs  2 agent:{id}:logs:count  3 agent:{id}:logs:bytes  4 agent:{id}:logs:offset
-- ARGV  1 lines to keep  2 bytes to keep  3 seconds to keep them for  4 how far its file is shipped ('' = not said)
--       5… the lines
-- Returns how many lines it ever had
--
-- agent:{id}:logs list, agent:{id}:logs:count string (lines it ever had), agent:{id}:logs:bytes string (of the lines in the list)
local logs, max_lines, max_bytes, seconds = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local bytes = tonumber(redis.call('GET', KEYS[3]) or false)
if not bytes then
  bytes = 0
  for _, line in ipairs(redis.call('LRANGE', logs, 0, -1)) do bytes = bytes + #line end
end
for i = 5, #ARGV do
  redis.call('RPUSH', logs, ARGV[i])
  bytes = bytes + #ARGV[i]
end
local length = redis.call('LLEN', logs)
-- guard: log-bytes
while length > max_lines or (bytes > max_bytes and length > 1) do
  bytes = bytes - #redis.call('LPOP', logs)
  length = length - 1
end
local count = redis.call('INCRBY', KEYS[2], #ARGV - 4)
redis.call('SET', KEYS[3], bytes, 'EX', seconds)
if ARGV[4] ~= '' then redis.call('SET', KEYS[4], ARGV[4], 'EX', seconds) end
redis.call('EXPIRE', logs, seconds)
redis.call('EXPIRE', KEYS[2], seconds)
return count
