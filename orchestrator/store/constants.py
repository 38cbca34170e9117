"""Constants that the Lua scripts and Python share: the scripts get them from here (see generated.py)."""

#: Seconds between two beats of a node, and how long its record lasts after one.
NODE_BEAT_SECONDS = 1.0
NODE_TTL_SECONDS = 10
#: What is left of a node's record when it has missed two beats: other nodes are preferred then.
LATE_NODE_MS = round((NODE_TTL_SECONDS - 2.5 * NODE_BEAT_SECONDS) * 1000)
#: A list that wakes a node expires after this, for a node that no longer listens.
WAKE_SECONDS = 60
#: Starts are counted in buckets of this length.
ARRIVAL_BUCKET_SECONDS = 10
#: After so many calls in a row that lost a living agent the operator is warned, and an alert is sent.
FAILING_CALLS = 3
#: Boot failures in a row that open the breaker.
BREAKER_FAILURES = 5
