-- The arguments of a script that takes them by name: ARGV is name, value, name, value …; missing ones are nil.
local ARGUMENTS = {}
for i = 1, #ARGV, 2 do ARGUMENTS[ARGV[i]] = ARGV[i + 1] end
