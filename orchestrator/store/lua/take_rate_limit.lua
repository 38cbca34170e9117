-- Count one more request of an address.
--
-- KEYS  none
-- ARGV  1 what is counted  2 client address  3 the network that it is of  4 requests per window  5 window in ms
-- Returns 0, or ms after which to try again
--
-- {what}:{address}:{n}  string  requests of this address, or network, in the n-th window
-- include: rate_limit
return rate_limited_with_network(ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])) or 0
