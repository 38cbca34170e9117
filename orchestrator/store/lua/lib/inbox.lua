-- Put a session's payload, a JSON object, into its agent's inbox, with what its author could not know: the session's id,
-- and for a call that is taken over the conversation so far (`turns`, JSON objects). `replacements`: how many agents the
-- call has had before.
-- include: mail
local function send_assignment(agent, session, payload, created_at, replacements, turns)
  post(agent, '{"sessionId":"' .. session .. '","createdAt":' .. created_at
    .. ',"takeovers":' .. replacements
    -- guard: conversation
    .. ',"conversation":[' .. table.concat(turns, ',') .. '],' .. string.sub(payload, 2))
end
