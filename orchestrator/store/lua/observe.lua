-- Add durations to a histogram.
--
-- KEYS  none
-- ARGV  name, ms, name, ms, …
-- Returns 1
--
-- histogram:{name}  hash       recent:{name}  list
-- include: histograms
for i = 1, #ARGV, 2 do observe(ARGV[i], tonumber(ARGV[i + 1])) end
return 1
