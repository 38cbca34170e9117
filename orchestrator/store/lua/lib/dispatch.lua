-- LiveKit assigns a job that we took at once or never; its own agents wait this long for it.
local JOB_MS = 7500
