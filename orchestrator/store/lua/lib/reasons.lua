-- Reasons: why something happened, as {code, params, text}. Their constants are generated from reasons.toml; the text is
-- what programs read that know no codes.

-- A reason with its parameters, as a constant's text names them.
local function reason(of, params)
  local text = string.gsub(of.text, '{(%a+)}', function(name)
    local value = params[name]
    return type(value) == 'number' and string.format('%.14g', value) or value or '?'
  end)
  if params.detail then text = text .. ': ' .. params.detail end
  return {code = of.code, params = params, text = text}
end

-- The same reason with one more parameter.
local function with_param(of, name, value)
  local params = {[name] = value}
  for each, known in pairs(of.params) do
    if each ~= name then params[each] = known end
  end
  return {code = of.code, params = params, text = of.text}
end

-- The fields of a hash or an event that hold a reason as `name`, and further ones.
local function reason_fields(name, of, ...)
  return name, of.text, name .. 'Code', of.code, name .. 'Params', cjson.encode(of.params), ...
end

-- The reason that a hash holds as `name`, or nil. One of the release before has a text alone: its code is ''.
local function recorded_reason(key, name)
  local fields = redis.call('HMGET', key, name, name .. 'Code', name .. 'Params')
  if not fields[1] then return end
  return {text = fields[1], code = fields[2] or '', params = fields[3] and cjson.decode(fields[3]) or {}}
end
