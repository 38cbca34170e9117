"""A Hypothesis state machine over the Lua scripts: each rule is a thing that happens, in one module per subject."""
