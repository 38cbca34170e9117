"""What one command may do to the store, in plain Python, and a bench that drives the Lua scripts with its own clock."""
