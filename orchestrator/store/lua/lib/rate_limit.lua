-- Rate limits by address: a sliding window counter, this window's count plus the share of the last one that still lies
-- within it.
-- include: clock, network_share

-- Count one more of something. Returns nil, or ms after which to try again.
local function rate_limited(name, address, amount, window)
  local index = math.floor(NOW / window)
  local passed = (NOW % window) / window
  local key = name .. ':' .. address .. ':'
  local current = tonumber(redis.call('GET', key .. index) or 0)
  local last = tonumber(redis.call('GET', key .. (index - 1)) or 0)
  if current + last * (1 - passed) >= amount then
    local wait
    if current >= amount then wait = (1 - passed) + (1 - amount / current)
    else wait = 1 - (amount - current) / last - passed end
    return math.ceil(wait * window) + 1
  end
  redis.call('SET', key .. index, current + 1, 'PX', window * 2)
end

-- The same for an address and its network. What is refused to the address does not count against its network.
local function rate_limited_with_network(name, address, network, amount, window)
  local wait = rate_limited(name, address, amount, window)
  if not wait and network ~= '' and network ~= address then
    wait = rate_limited(name, network, amount * NETWORK_SHARE, window)
  end
  return wait
end
