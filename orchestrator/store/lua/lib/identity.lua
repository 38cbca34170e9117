-- Whether the process that reports as an agent is the one that the agent host started, or a descendant of it: the host
-- may have started a wrapper.
-- `lineage`: pids of the process and its ancestors, separated by commas. Returns the contradiction in words, or nil.
local function contradiction(pid, lineage)
  if string.find(',' .. lineage .. ',', ',' .. pid .. ',', 1, true) then return end
  return 'process ' .. string.match(lineage, '^[^,]*') .. ' says that it is this agent, and is neither process ' .. pid
    .. ', which the agent host has started, nor a descendant of it'
end
