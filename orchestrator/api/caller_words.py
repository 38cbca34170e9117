"""What callers are told: fixed sentences by code. The operator's words, as exceptions and addresses, are not theirs.

A caller is whoever does not show ADMIN_TOKEN: a browser, the backend that holds an api key, nobody at all. Whatever is
not in these tables is told as the most general thing, so that a new text of the operator's reaches no caller either.
docs/errors.md lists them.
"""

import re

#: By the code of an error whose `detail` is not about the request (errors.py). The docstring there is the operator's.
PROBLEMS = {
    "internal_error": "Something went wrong here. If it stays so, tell whoever runs this service, with the requestId.",
    "session_over": "The session is over; start a new one.",
    "at_capacity": "All sessions are taken, and nobody else can wait in line; try again later.",
    "room_taken": "The room has a session already.",
    "illegal_move": "The session has changed in the meantime; look at it again.",
    "webhook_refused": "This webhook's signature is not accepted.",
    "store_unavailable": "The service cannot answer this just now; try again shortly.",
    "agents_do_not_boot": "Agents do not start just now; try again later.",
    "draining": "The service is about to restart here, and takes no more sessions; try again shortly.",
    "not_set_up": "The service is starting; try again shortly.",
    "host_unavailable": "No agent can be started just now; try again shortly.",
    "livekit_unavailable": "The media server cannot be reached just now; try again shortly.",
    "not_warm": "No agent is ready yet; try again shortly.",
    "schema_mismatch": "The service is being updated; try again shortly.",
}

#: By the code that stands before the colon of a session's reason. These sessions have failed.
REASONS = {
    "boot_error": "The agent that was started for the call failed.",
    "boot_timeout": "No agent was ready in time.",
    "unclaimed": "No machine took on the start of an agent.",
    "spawn_not_queued": "An agent could not be asked for.",
    "queue_timeout": "The call has waited in line for too long.",
    "join_timeout": "The agent did not come into the room in time.",
    "join_failed": "The agent could not join the room.",
    "join_refused": "The media server refused the agent.",
    "room_lost": "The agent lost the room.",
    "agent_lost": "The agent was lost.",
    "agent_error": "The agent failed.",
    "pipeline_failed": "The agent could not hear, think or speak any more.",
    "job_lost": "The call was given to somebody else.",
    "node_draining": "The service was about to restart.",
}
#: A session of which nothing else may be told.
OTHER = "other: The call is over, for a reason of its agent's own."

#: How sessions end as they should. In our own words, in which nothing is the operator's: told as they are.
ENDS = (
    "stopped by request",  # of nobody that we know: the api is open
    "stopped by request of the caller",
    "stopped by request of the backend",
    "stopped by request of an operator",
    "the agent hung up",
    "the connection of the user was lost",
    "the node is stopping",
    "user did not join within {} s",
    "user was gone for {} s",
    "maximum length of {} s reached",
)
#: The same, of which the words are the operator's: what callers are told instead.
RENAMED = {
    "the user sent more data than AGENT_DATA_MB allows": "too_much_data: The call's page sent more data than it may.",
    "LiveKit has ended its dispatch": "call_withdrawn: Whoever asked for the call has withdrawn it.",
    "room closed": "room_closed: The room was closed.",
}
_AS_IT_IS = re.compile("|".join(re.escape(end).replace(r"\{\}", r"\d+(\.\d+)?") for end in ENDS))

#: What /api/health tells callers of, when it is so.
WARNINGS = {
    "store_unavailable": "Sessions cannot be recorded, and none can start.",
    "livekit_unavailable": "The media server cannot be reached, and no call can start.",
    "agents_do_not_boot": "Agents do not start.",
    "host_unavailable": "A node starts no agents.",
    "no_nodes": "No node starts agents.",
    "draining": "A node is about to stop, and takes no more sessions.",
    "other": "Something needs the operator: the same request with the ADMIN_TOKEN tells what.",
}


def problem(code: str) -> str:
    """Return what a caller is told of an error."""
    return PROBLEMS.get(code, PROBLEMS["internal_error"])


def reason(text: str) -> str:
    """Return what a caller is told of why a session is over: words of ours, or `code: a fixed sentence`."""
    if _AS_IT_IS.fullmatch(text):
        return text
    kind = text.partition(": ")[0]
    if kind in REASONS:
        return f"{kind}: {REASONS[kind]}"
    return RENAMED.get(text.partition(" (")[0], OTHER)


def cause(text: str) -> str:
    """Return what a caller is told of why an agent was replaced, or how it ended."""
    if text in {"", "exited with code 0"}:
        return text
    told = reason(text)
    return f"agent_lost: {REASONS['agent_lost']}" if told == OTHER else told
