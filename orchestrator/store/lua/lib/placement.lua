-- Where a session can be served.
-- include: nodes

-- Whether a session may begin on a node: the node has capacity, or none has. A node without a record has.
local function may_serve_on(id)
  local here, anywhere = nil, false
  for _, node in ipairs(nodes_in_service()) do
    if node.id == id then here = node end
    anywhere = anywhere or has_capacity(node)
  end
  return not here or has_capacity(here) or not anywhere
end
