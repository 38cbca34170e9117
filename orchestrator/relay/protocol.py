"""The conversation between an agent and its node's relay: one JSON object per line over the Unix socket.

An agent asks with `id` and `op`, and arguments in `args`; the relay answers with the same `id` and `ok`, or with
`error` (the code of one of `ERRORS`, or another) and `detail`. The first request is `hello`, with the agent's id. A
request that was not answered before the connection was lost may be sent again.

    ping                                   instead of a hello: an answer, and the end of the connection
    hello       agent id                   the relay compares the process with the agent host's record of the agent
    ready       pid, ancestors' pids…      → the id of a session that was waiting, or null
    beat                                   → the agent's state, '' when Redis has no record of it
    register    pid, node, session, ancestors' pids…   → its state
    joined · no_room words · presence session, present, lost · first_audio session · turn session, turn
    failed cause · stopped reason · ended session, status, reason · leave reason           → null

A reason is an object of code, params, text. Without a request the relay sends `{"mail": number, "text": message}`. The
message stays in Redis until the agent has answered `{"got": number}`; it may come again over the next connection.
`{"inbox": detail}` says that the inbox cannot be read although Redis answers, and `{"inbox": null}` that it can again.
"""

from orchestrator.errors import IllegalMove, NotTheAgent, OrchestratorError, StoreUnavailable

#: Longest line either side accepts, in bytes: a session with its conversation.
MAX_LINE = 1 << 22
#: Errors that an agent must tell apart, by their code.
ERRORS: dict[str, type[OrchestratorError]] = {kind.code: kind for kind in (IllegalMove, NotTheAgent, StoreUnavailable)}
