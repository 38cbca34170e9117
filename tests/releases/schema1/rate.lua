-- Count one more request of an address.
--
-- KEYS  none
-- ARGV  1 what is counted  2 client address  3 requests per window  4 window in ms
-- Returns 0, or ms after which to try again
--
-- {what}:{address}:{n}  string  requests of this address in the n-th window
return limited(ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])) or 0
