-- A network of IPv6 addresses (a /48) may have this many times what limits allow one address (its /64).
local NETWORK_SHARE = 4
