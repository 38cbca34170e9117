-- Close the breaker by hand: boots are tried at once again.
--
-- KEYS  none
-- ARGV  none
-- Returns 1
--
-- pool:breaker hash, pool:boot_error, pool:boot_error:agent string, nodes set, pool:wake:{node} list
-- include: wake
redis.call('DEL', 'pool:breaker', 'pool:boot_error', 'pool:boot_error:agent')
wake()
return 1
