-- Refuse a move that the state tables forbid. The error reply starts with ILLEGAL, and is raised before anything is written.
local function illegal_move(kind, id, from, to)
  error({err = 'ILLEGAL ' .. kind .. ' ' .. id .. ': ' .. (from or 'unknown') .. ' -> ' .. to})
end
