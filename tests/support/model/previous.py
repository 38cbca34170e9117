"""The Lua scripts of the release before this one, and how a caller of that release calls them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

#: The scripts of the release before this one, unchanged.
RELEASES = Path(__file__).parents[2] / "releases"


def previous_release() -> dict[str, str]:
    """Return every script of the release before by name, with its prelude in front."""
    found: dict[str, str] = json.loads((RELEASES / "previous.json").read_text())
    prelude = found.pop("_prelude")
    return {name: prelude + source for name, source in found.items()}


def policy_of_previous_release(policy: Mapping[str, float]) -> dict[str, float]:
    """Return a policy as a node of the release before writes it: with other names, and most times in ms."""
    names = {
        "max_sessions": "maxSessions", "sessions_per_user": "perUser", "queue_limit": "queueLimit",
        "queue_seconds": "queueMs", "boot_timeout_seconds": "bootMs", "start_timeout_seconds": "startMs",
        "join_timeout_seconds": "joinMs", "user_join_seconds": "userJoinMs", "user_gone_seconds": "userGoneMs",
        "max_session_seconds": "maxMs", "heartbeat_timeout_seconds": "silentMs", "stop_grace_seconds": "stopMs",
        "goodbye_seconds": "goodbyeMs", "session_keep_seconds": "keepSeconds", "takeover": "takeover",
        "max_takeovers": "maxTakeovers", "reconcile_seconds": "reconcileMs", "alert_webhooks": "webhooks",
    }  # fmt: skip
    return {then: policy[now] * (1000 if then.endswith("Ms") else 1) for now, then in names.items() if now in policy}


#: The names that renamed scripts have in the release before.
PREVIOUS_NAMES = {
    "announce_replacement": "agent_announce", "claim_agent": "agent_claim", "record_exit": "agent_exited",
    "record_spawn": "agent_spawned", "retire_unfit": "agent_stop", "agent_leave": "agent_stop",
    "check_alerts": "alerts_look", "process_deadlines": "deadlines_due", "append_logs": "log_append",
    "drain_node": "node_drain", "forget_node": "node_forget", "undrain_node": "node_undrain",
    "recount_nodes": "nodes_recount", "report_memory": "pool_promote", "reserve_agents": "pool_reserve",
    "mark_stale": "pool_stale", "retire_surplus": "pool_surplus", "take_rate_limit": "rate",
    "end_session": "session_end", "agent_ended": "session_end", "reconcile_room": "session_look",
    "check_room_within": "session_look_by", "agent_first_audio": "session_note", "agent_presence": "session_presence",
    "agent_turn": "session_turn", "agent_stopped": "agent_failed",
}  # fmt: skip
_ASSIGN_ARGUMENTS = (
    "userId", "waitingId", "roomName", "payload", "address", "rateAmount", "rateWindowMs", "idempotencyKey",
    "fingerprint", "jobId", "dispatchId", "jobNode", "affinity", "network", "perAddress", "waitingPerAddress",
)  # fmt: skip
_NUMBERS = {"rateAmount", "rateWindowMs", "affinity", "perAddress", "waitingPerAddress"}


def as_previous_release(name: str, keys: Iterable[str], args: Sequence[str | int]) -> tuple[list[str], list[str | int]]:
    """Return a script's keys and arguments as the release before takes them: of a reason the text alone."""
    at = {"record_exit": 1, "agent_failed": 1, "agent_stopped": 1, "retire_unfit": 1, "agent_leave": 1}.get(name, 2)
    if name in {"end_session", "agent_ended"} or at == 1:
        args = [json.loads(str(arg))["text"] if index == at else arg for index, arg in enumerate(args)]
    match name:
        case "assign":
            given = dict(zip(args[::2], args[1::2], strict=True))
            return [], [given.get(each, 0 if each in _NUMBERS else "") for each in _ASSIGN_ARGUMENTS]
        case "retire_unfit" | "agent_leave":
            return [f"agent:{args[0]}"], list(args)
        case "end_session":
            return [], [*args, ""]
        case "agent_failed" | "agent_stopped":
            return [], [*args, int(name == "agent_stopped")]
        case "agent_first_audio":
            return list(keys), [*args, "firstAudioAt", "first_audio"]
    return list(keys), list(args)
