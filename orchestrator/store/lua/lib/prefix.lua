-- Stands in front of a script where REDIS_PREFIX is set, after the constant PREFIX and the commands by where their keys
-- are (FIRST, MANY: see generated.py). The rest of the script names keys as it would without a prefix. KEYS come with the prefix, because Redis's access rules check them.
-- Any other command is refused: which of its arguments are keys is unknown.
local server, KEYLESS = redis, {TIME = true}
local redis = {call = function(name, key, ...)
  -- guard: key-prefix
  if FIRST[name] then return server.call(name, PREFIX .. key, ...) end
  if KEYLESS[name] then return server.call(name) end
  if not MANY[name] then error({err = 'which arguments of ' .. name .. ' are keys is not known to REDIS_PREFIX'}) end
  local names = {key, ...}
  for i = 1, #names do names[i] = PREFIX .. names[i] end
  return server.call(name, unpack(names))
end}
local given, KEYS = KEYS, {}
for i = 1, #given do KEYS[i] = string.sub(given[i], #PREFIX + 1) end
