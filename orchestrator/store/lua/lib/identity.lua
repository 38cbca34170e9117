-- Whether the process that reports as an agent is the one that the agent host started, or a descendant of it: the host
-- may have started a wrapper.
-- include: reason_boot_error, reason_not_the_agent, reasons

-- `lineage`: pids of the process and its ancestors, separated by commas. Returns the contradiction as a reason for which
-- the boot failed, and in words, or nil.
local function contradiction(pid, lineage)
  if string.find(',' .. lineage .. ',', ',' .. pid .. ',', 1, true) then return end
  local params = {pid = tonumber(string.match(lineage, '^[^,]*')), hostPid = tonumber(pid)}
  local wrong = reason(NOT_THE_AGENT, params)
  params = with_param(wrong, 'cause', wrong.code).params
  return {code = BOOT_ERROR.code, params = params, text = BOOT_ERROR.code .. ': ' .. wrong.text}, wrong.text
end
