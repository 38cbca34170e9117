-- Milliseconds as text in seconds, for reasons that people read.
local function seconds(ms) return string.format('%g', ms / 1000) end
