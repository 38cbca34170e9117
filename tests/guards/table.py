"""Every guard: the code that makes a promise true, how to remove it, and the test that then fails.

A guard is found by its name in the code (anchors.py), so the code there may be rewritten.
"""

from dataclasses import dataclass, field

from tests.guards.anchors import Change


@dataclass(frozen=True)
class Guard:
    """The code that makes a promise true, how to remove it, and the test that then fails (a pytest node id)."""

    name: str
    test: str
    changes: tuple[Change, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def row(self) -> str:
        """The guard's line in docs/testing.md."""
        files = ", ".join(dict.fromkeys(f"`{change.file.removeprefix('orchestrator/')}`" for change in self.changes))
        file, _, name = self.test.removeprefix("tests/").partition("::")
        function, bracket, case = name.partition("[")
        step = self.environment.get("STEP", "").replace("_", " ")
        return f"| {self.name} | {files} | `{file}` {step or function.removeprefix('test_').replace('_', ' ')}{bracket and ' ['}{case} |"


def guard(name: str, test: str, *changes: Change, **environment: str) -> Guard:
    """Return a guard of a test below tests/."""
    return Guard(name, f"tests/{test}", changes, environment)


def remove(name: str) -> Change:
    """Remove the statement."""
    return Change(name, "remove")


def never(name: str) -> Change:
    """Make the condition always false."""
    return Change(name, "never")


def always(name: str) -> Change:
    """Make the condition always true."""
    return Change(name, "always")


def returns(name: str) -> Change:
    """Make the Lua function do nothing."""
    return Change(name, "return")


def replace(name: str, old: str, new: str) -> Change:
    """Replace one fragment by another."""
    return Change(name, "replace", old, new)


GUARDS = (
    # Deadlines, assignment, the queue
    guard(
        "credentials are checked before a body is read",
        "integration/test_gate.py::test_credentials_are_checked_before_the_body_is_read",
        replace(
            "credentials-before-body",
            "caller = request.state",
            "await request.body()\n            caller = request.state",
        ),
    ),
    guard(
        "a body's depth is bounded before anything recurses",
        "integration/test_gate.py::test_deeply_nested_json_is_refused_before_parsing",
        replace("body-depth", "bound(await _body(request))", "await _body(request)"),
    ),
    guard(
        "an answer lists few errors",
        "integration/test_gate.py::test_errors_are_few_and_short",
        replace("error-count", "[:ERRORS]", ""),
    ),
    guard(
        "no header can forge an internal key",
        "integration/test_gate.py::test_no_header_forges_an_internal_key",
        replace("key-scope", 'hashlib.sha256(f"{scope}\\n{key}".encode()).hexdigest()', "key"),
    ),
    guard(
        "a header is bounded in bytes",
        "unit/test_protocol.py::test_an_oversized_request_is_refused_before_it_is_stored",
        never("header-bytes"),
    ),
    guard(
        "a request is bounded in seconds",
        "unit/test_protocol.py::test_a_request_that_never_ends_is_cut_off",
        never("request-seconds"),
    ),
    guard(
        "connections are bounded in all",
        "unit/test_protocol.py::test_idle_connections_are_closed_for_new_requests",
        never("connections"),
    ),
    guard(
        "connections of one address are bounded",
        "unit/test_protocol.py::test_connections_per_address_are_limited_except_for_proxies",
        replace("connections-per-address", "len(mine) >= self._per_address > 0", "False"),
    ),
    guard(
        "a port listens before the app is loaded",
        "unit/test_sockets.py::test_sockets_listen_before_the_app_is_loaded",
        remove("listen-before-load"),
    ),
    guard(
        "a full Redis takes no new work",
        "integration/test_refusing_redis.py::test_a_full_redis_accepts_no_new_work_despite_a_warm_agent",
        remove("memory-before-work"),
    ),
    guard(
        "MAX_SESSIONS is checked in the step that takes the agent",
        "simulation/test_capacity.py::test_the_session_limit_holds_during_a_rush",
        never("cap"),
    ),
    guard(
        "the end of a session and the next one's turn are one step",
        "simulation/test_capacity.py::test_the_queue_is_first_in_first_out_and_advances_immediately",
        remove("promote"),
    ),
    guard(
        "a new session queues behind those that wait, even if there is room",
        "simulation/test_capacity.py::test_later_starts_never_overtake_the_queue",
        never("queue-first"),
        remove("promote"),
    ),
    guard(
        "a wait in line ends",
        "simulation/test_capacity.py::test_queued_sessions_end_by_timeout_or_by_their_user",
        never("queue-timeout"),
    ),
    guard(
        "a wait is estimated from how long sessions were",
        "chaos/test_capacity.py::test_queued_sessions_get_an_estimated_wait_once_it_is_known",
        replace(
            "wait-estimate", "session * position / await self._max_sessions()", "position / self._settings.max_sessions"
        ),
    ),
    guard(
        "the sessions of a user are counted",
        "simulation/test_capacity.py::test_one_user_never_exceeds_the_limit_per_user",
        never("sessions-per-user"),
    ),
    guard(
        "an agent's process is checked right before it is handed out",
        "integration/test_api.py::test_dead_warm_agents_cost_no_session",
        always("process-alive"),
    ),
    guard(
        "shrinking takes from the pool only",
        "simulation/test_capacity.py::test_many_concurrent_starts_succeed_while_the_pool_is_resized",
        replace(
            "shrink-pool-only",
            "redis.call('SINTER', 'pool:ready', 'pool:stale')[1] or agent_above_share(want)",
            "redis.call('SRANDMEMBER', 'agents')",
        ),
    ),
    guard(
        "starts are counted by the peer's address",
        "chaos/test_capacity.py::test_a_flood_from_one_address_does_not_affect_other_addresses",
        replace(
            "peer-address", 'request.client.host if request.client else ""', 'request.headers.get("x-real-ip", "")'
        ),
    ),
    guard(
        "no agent is started while memory is low",
        "chaos/test_capacity.py::test_without_free_memory_no_agent_starts_and_the_reason_is_reported",
        always("memory-floor"),
    ),
    guard(
        "an agent that is no longer warm leaves the pool",
        "integration/test_model.py::test_the_promises_hold_whatever_happens",
        replace("leave-pool", "SREM', set, id", "EXISTS', set"),
        HYPOTHESIS_PROFILE="guard",
    ),
    guard(
        "a silent agent is not handed out",
        "integration/test_store.py::test_a_heartbeat_of_a_silent_agent_serves_a_waiting_session",
        replace("silent-not-assigned", "silence <=", "0 * silence <="),
    ),
    guard(
        "every wait has its deadline",
        "integration/test_model.py::test_the_promises_hold_whatever_happens",
        remove("start-deadline"),
        HYPOTHESIS_PROFILE="guard",
    ),
    guard(
        "a session has one agent at a time",
        "integration/test_model.py::test_the_promises_hold_whatever_happens",
        replace("one-agent", "fields[1] ~= agent or ", ""),
        HYPOTHESIS_PROFILE="guard",
    ),
    guard(
        "a free place goes to the waiting line",
        "integration/test_model.py::test_the_promises_hold_whatever_happens",
        remove("promote"),
        HYPOTHESIS_PROFILE="guard",
    ),
    guard(
        "the pool's target follows what arrives",
        "chaos/test_capacity.py::test_the_pool_grows_with_arrivals_and_reports_the_reason",
        replace("arrivals", "'INCR', bucket", "'SET', bucket, 0"),
    ),
    # Users
    guard(
        "a session that registers is not forgotten",
        "integration/test_refill.py::test_a_session_without_a_record_is_no_longer_counted",
        never("end-lost-only"),
    ),
    guard(
        "the command line ends without exit handlers",
        "unit/test_process.py::test_the_command_line_ends_without_exit_handlers",
        replace("call-ends-quietly", "end_after(run)", "run()"),
    ),
    guard(
        "the table of reasons is read before agents are forked",
        "unit/test_runtime.py::test_what_every_agent_reads_is_read_before_the_fork",
        remove("read-before-fork"),
    ),
    guard(
        "a user whose connection was lost is waited for less long",
        "integration/test_store.py::test_the_wait_for_a_user_is_shorter_after_a_lost_connection",
        replace("lost-connection", "(lost and 4 or 1)", "1"),
    ),
    guard(
        "a client that dies frees its agent as soon as is promised",
        "chaos/test_users.py::test_a_client_that_dies_frees_its_agent_within_thirty_seconds",
        replace("lost-connection", "(lost and 4 or 1)", "1"),
    ),
    guard(
        "a user has one identity in the room from every tab",
        "chaos/test_users.py::test_a_second_tab_continues_the_call",
        replace("one-identity", "user_identity(room)", 'new_id("user")'),
    ),
    guard(
        "a client secret is good for its own session alone",
        "integration/test_access.py::test_a_client_secret_gives_access_to_its_own_session_only",
        replace(
            "client-secret-session",
            "hmac.compare_digest(_digest(secret), _digest(self.client_secret(session_id)))",
            "True",
        ),
    ),
    guard(
        "a client secret ends a little after its session",
        "integration/test_access.py::test_a_client_secret_expires_shortly_after_the_end_of_its_session",
        replace("client-secret-expiry", "ended is not None", "False"),
    ),
    guard(
        "an api that is open is open to this machine alone",
        "integration/test_access.py::test_an_open_api_accepts_only_loopback_hosts",
        always("loopback-only"),
    ),
    guard(
        "a string like a client secret opens only its own session's routes",
        "integration/test_strangers.py::test_an_invalid_client_secret_is_refused_on_every_route",
        replace("client-secret-routes", "access.starter", "access.caller"),
    ),
    guard(
        "only the operator reads the cause of an error",
        "integration/test_operators_words.py::test_callers_never_see_the_text_of_a_boot_error",
        replace("error-detail", " if _is_operator(request) else caller_words.problem(failure.code)", ""),
    ),
    guard(
        "only the operator reads the warnings within an error",
        "integration/test_refusing_redis.py::test_the_health_route_names_the_refusal_of_redis",
        replace("caller-warning-codes", " if _is_operator(request)]", "]"),
    ),
    guard(
        "callers read no detail of an unexpected error",
        "integration/test_operators_words.py::test_callers_never_see_the_text_of_an_unexpected_error",
        replace("unexpected-error-detail", ' if _is_operator(request) else caller_words.problem("internal_error")', ""),
    ),
    guard(
        "where no credentials are needed, secrets cannot be guessed either",
        "integration/test_operators_words.py::test_a_public_route_cannot_be_used_to_guess_the_token",
        never("guessed-secret"),
    ),
    guard(
        "callers read the code of a reason or cause, not its text",
        "unit/test_caller_words.py::test_a_reason_is_translated_by_its_code",
        replace(
            "reason-code",
            'reasons.for_callers(Reason(code or "", params or {}, text))',
            'Reason(code or "", params or {}, text)',
        ),
    ),
    guard(
        "callers read fixed sentences about a session",
        "integration/test_operators_words.py::test_callers_get_only_the_code_of_an_agents_failure",
        never("caller-view"),
    ),
    guard(
        "callers read fixed sentences in a session's events",
        "integration/test_operators_words.py::test_the_event_stream_shows_callers_no_internal_text",
        replace("caller-events", " if caller.role is Role.ADMIN else caller_view.event", ""),
    ),
    guard(
        "health shows callers that something is wrong, but not why",
        "integration/test_operators_words.py::test_callers_never_see_the_text_of_a_boot_error",
        replace("caller-health", " if caller.role is Role.ADMIN else caller_view.health(reply)", ""),
    ),
    guard(
        "only the operator reads logs",
        "integration/test_operators_words.py::test_callers_get_only_the_code_of_an_agents_failure",
        never("logs-for-admin"),
    ),
    guard(
        "a session's reason says who stopped it",
        "integration/test_operators_words.py::test_the_reason_states_which_credential_ended_the_session",
        replace("stopped-by", "_STOPPED[caller.role]", '"stopped by request"'),
    ),
    guard(
        "an open api gives a live session only to the client that began it",
        "integration/test_strangers.py::test_an_open_api_returns_a_live_session_only_to_its_starter",
        never("session-of-its-starter"),
    ),
    guard(
        "no caller names a user for whom a room stands",
        "integration/test_strangers.py::test_callers_cannot_use_user_ids_that_are_derived_from_rooms",
        never("reserved-user"),
    ),
    guard(
        "one address has few sessions",
        "integration/test_strangers.py::test_one_address_gets_a_limited_number_of_sessions_and_queue_places",
        never("sessions-per-address"),
    ),
    guard(
        "an IPv6 network has the limits of a few addresses",
        "integration/test_strangers.py::test_an_ipv6_network_counts_as_a_few_addresses",
        replace("address-network", "{network, NETWORK_SHARE}", "nil"),
    ),
    guard(
        "a user is not left in a room that no agent serves",
        "integration/test_strangers.py::test_rooms_with_users_and_without_an_agent_are_deleted",
        remove("close-unserved-room"),
    ),
    guard(
        "wrong secrets are tried only so often",
        "integration/test_strangers.py::test_attempts_with_wrong_secrets_are_limited",
        replace("wrong-secrets", "seen.wrong >= MOST", "False"),
    ),
    guard(
        "a client cannot choose its room",
        "integration/test_token.py::test_no_request_gets_additional_grants",
        replace(
            "room-chosen", 'if body.room_name not in {None, "", room}', "room = body.room_name or room\n    if False"
        ),
    ),
    guard(
        "LiveKit's own attributes are refused",
        "integration/test_token.py::test_forbidden_fields_of_a_token_request_are_refused",
        replace("livekit-attributes", 'lower().startswith("lk.")', 'startswith("LK.")'),
    ),
    guard(
        "no agent gets variables that are not for agents",
        "e2e/test_access.py::test_operators_have_access_and_strangers_have_none",
        remove("agent-environment"),
        replace("program-secrets", "NEEDS[program]", "environment"),
        STEP="secrets_appear_only_where_they_are_needed",
    ),
    guard(
        "Compose has no secret that everybody knows",
        "unit/test_shipped_secrets.py::test_no_shipped_file_contains_a_secret",
        replace("compose-secret", "LIVEKIT_API_SECRET:-", "LIVEKIT_API_SECRET:-for-trying"),
    ),
    guard(
        "health warns when callers cannot reach LiveKit",
        "integration/test_access.py::test_health_warns_when_callers_cannot_reach_livekit",
        remove("livekit-unreachable"),
    ),
    guard(
        "secrets that somebody else could have written are not read",
        "unit/test_private.py::test_a_secrets_file_that_another_user_could_write_is_refused",
        remove("private-owner"),
        remove("private-file-owner"),
        never("private-file-mode"),
    ),
    guard(
        "a node refuses a folder that another user could have filled",
        "unit/test_private.py::test_up_refuses_a_foreign_folder_before_writing_to_it",
        remove("private-folder"),
    ),
    guard(
        "each program of a node has its own secrets and no other",
        "e2e/test_access.py::test_operators_have_access_and_strangers_have_none",
        replace("program-secrets", "NEEDS[program]", "environment"),
        STEP="each_program_gets_only_its_own_secrets",
    ),
    guard(
        "supervisord's environment has no secret",
        "unit/test_programs.py::test_secrets_reach_programs_and_not_supervisords_environment",
        replace("supervisord-secrets", "shared(environment)", "dict(environment)"),
    ),
    guard(
        "a program of a node reads no .env",
        "unit/test_programs.py::test_a_program_of_a_node_reads_no_dot_env",
        replace("program-dotenv", "kind(_env_file=None)", "kind()"),
    ),
    guard(
        "an api that was given no keys opens to nobody by mistake",
        "unit/test_programs.py::test_programs_without_the_keys_start_and_the_api_does_not",
        never("api-keys-missing"),
    ),
    guard(
        "no other process of the same user reads a sealed process",
        "unit/test_sealed.py::test_other_processes_of_its_user_cannot_read_its_environment_or_memory",
        remove("sealed"),
    ),
    guard(
        "zombies of sealed programs are seen",
        "integration/test_invariants.py::test_a_zombie_of_a_sealed_program_is_a_violation",
        replace("sealed-census", "settings.node_id if process.pid in supervised", '"" if False'),
    ),
    guard(
        "an api that stops ends its streams",
        "e2e/test_access.py::test_operators_have_access_and_strangers_have_none",
        replace("streams-stop", "_on_stop_signal(feed.close)", "contextlib.nullcontext()"),
        STEP="a_stop_does_not_wait_for_open_streams",
    ),
    guard(
        "LiveKit keeps a room as long as its user is waited for",
        "chaos/test_users.py::test_a_user_may_return_within_the_configured_time",
        remove("room-timeouts"),
    ),
    # Takeover
    guard(
        "the agent host reports a death at once",
        "unit/test_host.py::test_a_death_is_told_until_it_is_acknowledged",
        remove("death-event"),
    ),
    guard(
        "a silent agent is replaced",
        "e2e/test_sessions.py::test_sessions_from_their_start_to_their_end",
        returns("heartbeat-timeout"),
        STEP="hung_agents_are_replaced_and_calls_continue",
    ),
    guard(
        "the number of takeovers is bounded",
        "e2e/test_sessions.py::test_sessions_from_their_start_to_their_end",
        never("takeover-limit"),
        STEP="the_third_death_ends_the_call_with_the_last_cause",
    ),
    guard(
        "the conversation is handed over",
        "e2e/test_voice.py::test_callers_talk_with_agents",
        replace("conversation", "table.concat(turns, ',')", "''"),
        STEP="a_replacement_agent_has_the_users_name_and_the_conversation",
    ),
    # Survival
    guard(
        "a new agent host adopts the agents of the previous one",
        "chaos/test_survival.py::test_a_call_continues_when_a_program_is_killed[host]",
        remove("adopt"),
    ),
    guard(
        "a restart of the agent host alone ends no call",
        "chaos/test_survival.py::test_a_call_continues_when_programs_are_restarted",
        remove("host-hangup"),
    ),
    guard(
        "a Celery worker that connects gets the list of living agents",
        "chaos/test_survival.py::test_calls_survive_repeated_kills_of_the_celery_worker",
        replace("registered-agents", "{process.agent_id for process in living} |", ""),
    ),
    guard(
        "requests get a problem that says that Redis is away",
        "chaos/test_survival.py::test_calls_survive_a_long_outage_of_redis",
        never("redis-away"),
        never("redis-away-cause"),
    ),
    guard(
        "a program waits when Redis refuses a command because of its own state",
        "unit/test_refusals.py::test_an_error_about_the_servers_state_is_temporary",
        replace("redis-refusal", "code not in _MISTAKES", "False"),
    ),
    guard(
        "beat waits for Redis without ending its process",
        "chaos/test_redis_refuses.py::test_no_program_exits_while_redis_is_unavailable[gone]",
        replace("beat-waits", "self._say(cause)", "raise"),
    ),
    guard(
        "supervisord never gives up on a program that has run once",
        "unit/test_supervise.py::test_a_program_that_has_run_is_always_restarted",
        remove("restart-forever"),
    ),
    guard(
        "a full disk does not end the agent host",
        "unit/test_full_disk.py::test_the_host_reports_deaths_and_refuses_spawns_with_the_cause",
        replace("host-full-disk", "OSError", "KeyError"),
    ),
    guard(
        "an agent that lives registers again",
        "chaos/test_survival.py::test_calls_survive_the_loss_of_all_records[flush]",
        replace("register-again", "await self._register()", '"unknown"'),
    ),
    guard(
        "starts wait until living agents have registered",
        "chaos/test_survival.py::test_calls_survive_the_loss_of_all_records[flush]",
        replace("wait-for-registrations", "not await self._all_registered()", "False"),
        replace("wait-for-heartbeats", "max(0.0, began + heartbeat - self._clock.monotonic())", "0"),
    ),
    guard(
        "a session that seems lost has time to register before it is ended",
        "simulation/test_loss.py::test_clean_ups_that_come_together_end_no_session",
        never("check-interval"),
    ),
    guard(
        "the api checks an agent's process before it hands the agent out",
        "simulation/test_capacity.py::test_a_killed_warm_agent_is_never_assigned",
        always("may-live"),
    ),
    guard(
        "starts wait until living agents of other nodes have registered",
        "simulation/test_loss.py::test_the_cap_holds_though_redis_comes_back_empty[3]",
        replace("wait-for-heartbeats", "max(0.0, began + heartbeat - self._clock.monotonic())", "0"),
    ),
    guard(
        "supervisord starts the Celery worker again",
        "chaos/test_kill_loop.py::test_records_match_processes_after_random_kills",
        replace("restart-worker", "autorestart=true", "autorestart=false"),
        CHAOS_SEED="2",
    ),
    guard(
        "a session that is over leaves the user's record",
        "chaos/test_soak.py::test_nothing_grows_while_sessions_come_and_go",
        replace("user-record", "else redis.call('DEL', 'session:user:' .. user) end", "end"),
        SOAK_SECONDS="60",
    ),
    guard(
        "a dead Redis connection is noticed",
        "chaos/test_redis_black_hole.py::test_a_black_holed_redis_gets_prompt_errors_and_recovers[silent for good]",
        replace("redis-timeout", "socket_timeout=patience", "socket_timeout=None"),
    ),
    guard(
        "another node's agent continues the call of an agent that must leave",
        "e2e/test_nodes.py::test_three_nodes_share_the_work_and_a_call_survives_its_node",
        replace("stop-hands-over", "context.stop(", "context.leave("),
        STEP="a_node_with_a_killed_main_process_hands_its_calls_over",
    ),
    guard(
        "a connection that was idle while Redis restarted is not handed out",
        "integration/test_connection.py::test_idle_connections_work_after_a_restart_of_redis[connect]",
        replace("idle-connection", "enabled=False", ""),
    ),
    guard(
        "only the deadline decides that an agent is silent",
        "integration/test_refill.py::test_examine_detects_each_fault",
        replace("only-deadline-ends", "memory_limit", "memory_limit and agent.last_beat is None"),
    ),
    guard(
        "an agent is the process that the host started, or one below it",
        "integration/test_identity.py::test_a_foreign_process_cannot_take_over_a_running_boot",
        never("agent-process"),
    ),
    guard(
        "the process id that the agent host reports is the agent's",
        "integration/test_identity.py::test_an_agent_behind_a_wrapper_becomes_warm_and_can_be_assigned[False-a shell script]",
        never("host-process-id"),
    ),
    guard(
        "a call is handed over when a task that it needs ends",
        "unit/test_runtime.py::test_an_entrypoint_whose_inner_task_is_cancelled_is_not_silent",
        replace("watched-task", " and not task.cancelled()", ""),
    ),
    guard(
        "a forked agent keeps the files and sockets that its module opened",
        "unit/test_loaded.py::test_agents_keep_environment_files_and_sockets_and_differ_in_random_numbers",
        replace("close-inherited", "disown()", "os.closerange(3, 256)"),
    ),
    guard(
        "each agent has its own random numbers",
        "unit/test_loaded.py::test_agents_keep_environment_files_and_sockets_and_differ_in_random_numbers",
        remove("reseed"),
    ),
    guard(
        "a host that does not answer is killed",
        "chaos/test_survival.py::test_a_hung_host_is_replaced_while_calls_continue",
        remove("host-hangs"),
    ),
    # Retries and doubles
    guard(
        "supervisord starts the api again",
        "chaos/test_doubles.py::test_no_start_is_lost_while_the_api_is_killed_repeatedly",
        replace("restart-api", "autorestart=true", "autorestart=false"),
    ),
    guard(
        "an agent whose session Redis has lost registers again",
        "chaos/test_doubles.py::test_an_agent_registers_again_after_redis_lost_its_session[session]",
        replace("lost-session", "not session_state(session)", "false"),
    ),
    guard(
        "the lock of a beat that was killed runs out",
        "chaos/test_doubles.py::test_only_one_of_two_beats_sends_tasks_and_a_killed_one_is_replaced",
        replace("beat-lock", '"redbeat_lock_timeout": 15', '"redbeat_lock_timeout": 1500'),
    ),
    guard(
        "all tasks that wait for a boot learn its result",
        "chaos/test_flood.py::test_a_repeated_spawn_task_starts_one_agent",
        replace(
            "boot-decided",
            'await self._blocking.blmove(decided, decided, min(remaining, BLOCK_SECONDS), "LEFT", "RIGHT")',
            "(await self._blocking.blpop([decided], min(remaining, BLOCK_SECONDS)) or [None])[-1]",
        ),
    ),
    # Crash points
    guard(
        "a boot that nobody has claimed is given up",
        "chaos/test_crash_points.py::test_a_session_gets_one_agent_whichever_process_fails[api.after_assign-kill]",
        replace("boot-unclaimed", "exit_agent(id, UNCLAIMED)", "return"),
    ),
    guard(
        "a boot that takes too long is given up",
        "chaos/test_crash_points.py::test_a_session_gets_one_agent_whichever_process_fails[agent.before_ready-hang]",
        returns("boot-timeout"),
    ),
    guard(
        "a forked child records itself before anything else",
        "unit/test_host.py::test_a_host_killed_at_the_fork_leaves_no_unknown_agent[fork]",
        remove("record-self"),
    ),
    guard(
        "an agent that is recorded as exited but still lives is stopped",
        "chaos/test_crash_points.py::test_a_new_worker_completes_the_actions_of_a_missed_deadline",
        never("stop-exited"),
    ),
    guard(
        "the agent host reports a death until it is acknowledged",
        "chaos/test_crash_points.py::"
        "test_an_agents_death_is_handled_once_though_the_handler_dies[kill-watch.before_record_death]",
        replace("death-until-acknowledged", "encode(death) for death in self._children.deaths.values()", ""),
    ),
    guard(
        "a death is reported again, or found by the list, the heartbeat or the health check",
        "chaos/test_crash_points.py::test_a_dead_warm_agent_is_replaced_though_the_handler_dies[watch.before_record_death]",
        replace("death-until-acknowledged", "encode(death) for death in self._children.deaths.values()", ""),
        remove("unknown-agent"),
        returns("heartbeat-timeout"),
        never("health-check"),
    ),
    guard(
        "every listed fault point is used",
        "simulation/test_crash_points.py::test_a_session_gets_one_agent_whatever_fails_at",
        replace("fault-points", '"host.after_fork"', '"no.where": "",\n    "host.after_fork"'),
    ),
    # Poison
    guard(
        "the breaker opens",
        "chaos/test_poison.py::test_an_unbootable_module_is_reported_and_recovers[exit]",
        replace("breaker", "failures < BREAKER_FAILURES", "true"),
    ),
    guard(
        "a session that has no agent ends",
        "chaos/test_poison.py::test_a_slow_boot_times_out_and_leaves_no_process",
        returns("start-timeout"),
    ),
    guard(
        "conversations are deleted from the disk",
        "integration/test_forgetting.py::test_conversations_are_deleted_from_disk",
        remove("forget-on-disk"),
    ),
    guard(
        "records are bounded by their number",
        "integration/test_forgetting.py::test_the_number_of_records_is_bounded",
        remove("record-count"),
    ),
    guard(
        "a log is bounded in bytes",
        "integration/test_forgetting.py::test_a_log_is_bounded_in_lines_and_bytes",
        replace("log-bytes", "(bytes > max_bytes and length > 1)", "false"),
    ),
    # LiveKit
    guard(
        "a phone that rings does not count as a user in the room",
        "integration/test_joining.py::test_a_ringing_phone_counts_as_a_user_once_it_is_answered",
        replace("ringing", 'kind != "SIP"', "True"),
    ),
    guard(
        "an answer and a hang-up are seen when they happen",
        "unit/test_presence.py::test_an_agent_waits_until_the_phone_is_answered",
        remove("attributes-changed"),
    ),
    guard(
        "a refusal that any agent would get uses up one agent only",
        "integration/test_joining.py::test_a_permanent_refusal_ends_the_session_immediately",
        never("permanent-refusal"),
    ),
    guard(
        "the agent's room is created when LiveKit does not create it",
        "integration/test_joining.py::test_the_room_is_created_for_the_agent_without_a_user",
        remove("make-room"),
    ),
    guard(
        "LiveKit's error messages are shown without tokens",
        "unit/test_livekit_refusals.py::test_a_refusal_has_livekits_text_without_the_token",
        replace("livekit-token-in-words", "without_tokens(text[:_READ])", "text"),
    ),
    guard(
        "identities fit into LiveKit's limit",
        "unit/test_livekit_refusals.py::test_identities_stay_within_livekits_limit",
        always("identity-bytes"),
    ),
    guard(
        "a node that is put back ends no call",
        "integration/test_nodes.py::test_repeated_drains_and_undrains_end_no_call",
        replace(
            "undrain-goodbye",
            "redis.call('ZREM', 'deadlines', 'goodbye|' .. id) == 1",
            "redis.call('ZSCORE', 'deadlines', 'goodbye|' .. id)",
        ),
    ),
    guard(
        "a node that came back keeps its queue",
        "integration/test_nodes.py::test_a_node_that_came_back_is_not_removed",
        replace("forget-queue", "redis.call('EXISTS', key) == 1", "false"),
    ),
    guard(
        "a LiveKit that hangs is noticed",
        "chaos/test_livekit.py::test_a_frozen_livekit_ends_no_call",
        replace("livekit-hangs", "REQUEST_SECONDS", "None"),
    ),
    guard(
        "starts are refused while LiveKit is away",
        "chaos/test_livekit.py::test_calls_continue_while_signalling_is_black_holed",
        remove("livekit-down"),
    ),
    guard(
        "an agent tries again to join",
        "chaos/test_livekit.py::test_an_agent_retries_until_it_can_join",
        replace("join-retry", "rtc.ConnectError", "KeyError"),
    ),
    guard(
        "while LiveKit is away nobody is replaced for not joining",
        "chaos/test_livekit.py::test_an_agent_retries_until_it_can_join",
        never("livekit-down-join"),
    ),
    guard(
        "supervisord starts LiveKit again",
        "chaos/test_livekit.py::test_a_killed_livekit_loses_no_call_and_leaves_no_session_open",
        replace("restart-livekit", "autorestart=true", "autorestart=false"),
    ),
    # Drain, reload
    guard(
        "the drain waits for the calls",
        "e2e/test_drain.py::test_calls_continue_until_the_end_of_the_drain",
        never("drain-waits"),
    ),
    guard(
        "the drain waits for the calls though Redis is away",
        "chaos/test_drain_without_redis.py::test_calls_continue_without_redis_until_the_end_of_the_drain[gone for good]",
        replace("drain-counts-processes", "self._count_living_agents()", "0"),
    ),
    guard(
        "the drain waits for living agents even if the api fails",
        "unit/test_drain.py::test_running_agents_get_the_drain_time_when_the_api_fails",
        replace("drain-counts-processes", "self._count_living_agents()", "0"),
    ),
    guard(
        "agents learn that their node stops though Redis is away",
        "unit/test_runtime.py::test_without_redis_an_agent_parts_by_its_nodes_word",
        remove("parting-word"),
    ),
    guard(
        "agents ignore the shutdown notice that a killed node left behind",
        "unit/test_drain.py::test_a_shutdown_notice_of_a_killed_node_is_ignored",
        replace("parting-of-another", "and _has_writer(file) ", ""),
    ),
    guard(
        "a caller does not read or drive the agent's session",
        "e2e/test_voice.py::test_callers_talk_with_agents",
        replace("session-host", ", session_host=False", ""),
        STEP="a_caller_cannot_read_or_control_the_agent_except_by_voice",
    ),
    guard(
        "typed words are not taken unless that is wanted",
        "e2e/test_voice.py::test_callers_talk_with_agents",
        replace("typed-words", "_text_input()", "True"),
        STEP="a_caller_cannot_read_or_control_the_agent_except_by_voice",
    ),
    guard(
        "a command that waits for a drain or a reload continues to wait while Redis is away",
        "unit/test_commands.py::test_commands_keep_waiting_during_an_outage_of_redis",
        replace("wait-without-redis", "StoreUnavailable", "NotFound"),
    ),
    guard(
        "the end of a call is recorded by the drain, or by the agent that is told to stop",
        "chaos/test_drain.py::test_records_are_correct_after_a_stop_without_a_drain",
        replace("end-reported", "self.reports.end(outcome, reason)", "asyncio.sleep(0)"),
        returns("goodbye-timeout"),
    ),
    guard(
        "agents are told that the drain is nearly over",
        "e2e/test_voice.py::test_callers_talk_with_agents",
        replace("goodbye", "type = 'goodbye', seconds = goodbye_ms / 1000", "type = 'other'"),
        STEP="an_agent_says_goodbye_before_its_node_stops",
    ),
    guard(
        "warm agents of older code are replaced",
        "chaos/test_reload.py::test_a_reload_activates_new_code_while_a_call_runs_on_the_old_code",
        never("stale-agents"),
    ),
    guard(
        "new code is tried elsewhere first",
        "chaos/test_reload.py::test_broken_code_is_refused_with_its_reason_and_changes_nothing",
        always("code-trial"),
    ),
    # Processes
    guard(
        "log files are bounded while they are flooded",
        "chaos/test_flood.py::test_a_flood_of_output_is_bounded_and_other_calls_are_unaffected",
        replace("flooded-log", "agent_log_bytes", "agent_log_bytes * 1000"),
    ),
    guard(
        "TERM, then KILL at the deadline",
        "chaos/test_flood.py::test_an_agent_that_ignores_sigterm_is_killed_after_ten_seconds[deaf]",
        remove("kill-after-term"),
    ),
    guard(
        "a process is its pid and its start",
        "chaos/test_flood.py::test_an_unrelated_process_with_an_agents_pid_is_never_signalled",
        replace("process-start", "== self", "is not None"),
    ),
    guard(
        "the second process of an agent gives up",
        "unit/test_host.py::test_the_second_process_of_an_agent_gives_up",
        replace(
            "record-once",
            "os.link(temporary, self._record(process.agent_id))",
            "os.replace(temporary, self._record(process.agent_id)); temporary.touch()",
        ),
    ),
    guard(
        "the agent host searches for records that it does not know",
        "unit/test_host.py::test_a_child_that_was_not_registered_is_found[fork]",
        never("scan-records"),
    ),
    guard(
        "processes that a dead agent left behind are killed",
        "unit/test_host.py::test_adopted_agents_leave_no_children_behind[killed by a stranger]",
        remove("kill-group"),
        remove("kill-strays"),
    ),
    guard(
        "child processes that left the agent's process group are killed too",
        "unit/test_host.py::test_who_sends_a_child_out_of_its_group_takes_it_along_all_the_same[False]",
        remove("kill-strays"),
    ),
    guard(
        "the newest output of a flood is kept",
        "unit/test_host.py::test_a_flood_fills_no_disk",
        replace("newest-output", " and not _punch(path, status.st_size - limit // 2)", ""),
    ),
    guard(
        "the log of an agent that floods it is checked more often",
        "unit/test_host_inside.py::test_a_flood_is_watched_more_closely",
        remove("flood-check"),
    ),
    guard(
        "every child is reaped",
        "unit/test_host.py::test_a_thousand_agents_leave_nothing_behind",
        replace("reaped", "self._strays_of.add(process.agent_id)", "os.open(os.devnull, 0)"),
    ),
    guard(
        "an agent host that is stopped alone leaves its agents alive",
        "unit/test_host.py::test_a_host_that_is_restarted_alone_leaves_its_agents",
        replace("host-leaves-agents", "self._leaving", "(self._leaving and not self._children)"),
    ),
    guard(
        "loading that hangs is ended",
        "unit/test_host_code.py::test_a_module_that_hangs_while_it_is_loaded_does_not_hang_the_host_for_ever",
        remove("preload-timeout"),
    ),
    guard(
        "a module that kills the host is not loaded a third time",
        "unit/test_host_code.py::test_a_module_that_kills_the_host_is_not_loaded_a_third_time",
        replace("preload-deaths", "self._count() >= _DEATHS", "False"),
    ),
    guard(
        "a program that answers no ping is replaced",
        "unit/test_program.py::test_a_program_that_answers_no_ping_is_killed",
        never("program-hung"),
    ),
    guard(
        "a program does not outlive its agent's process",
        "unit/test_program.py::test_a_program_dies_with_its_agents_process",
        remove("program-orphan"),
    ),
    guard(
        "what a program has started ends with it",
        "unit/test_program.py::test_what_a_program_has_started_ends_with_it",
        remove("program-group"),
    ),
    guard(
        "a program's line is bounded",
        "unit/test_program.py::test_lines_arrive_in_any_pieces",
        never("program-line"),
    ),
    guard(
        "a stop that has begun is finished after the agent host re-executes itself",
        "unit/test_host_code.py::test_a_stop_that_is_under_way_is_brought_to_its_end",
        replace("stop-handover", "self._stops.get(process.agent_id)", "None"),
    ),
    guard(
        "lines are shipped at a bounded rate",
        "unit/test_log_shipper.py::test_a_flood_is_limited_to_the_lines_per_second",
        remove("ship-rate"),
    ),
    guard(
        "a shipped line is one line wherever it is shown",
        "unit/test_log_shipper.py::test_binary_output_becomes_printable_lines",
        replace("shipped-line", "_CONTROL.sub(", 're.sub("-x-", '),
    ),
    guard(
        "the status page escapes HTML in texts",
        "e2e/test_status_page.py::test_the_status_page_shows_a_running_node",
        replace("page-text", 'oneLine(String(value ?? ""))', 'String(value ?? "")'),
        STEP="control_characters_in_foreign_text_are_escaped",
    ),
    guard(
        "the log of an agent is the admin's",
        "integration/test_agent_logs.py::test_agent_logs_require_the_admin_token",
        replace("agent-log-for-admin", "route_class=gated(administrator), ", ""),
    ),
    guard(
        "a failure is listed as long as its record and log are kept",
        "integration/test_agent_logs.py::test_a_log_is_kept_as_long_as_its_failure_is_listed",
        remove("failures-kept"),
    ),
    guard(
        "the cgroup's memory counts",
        "unit/test_memory.py::test_a_limit_of_a_parent_cgroup_counts",
        replace("cgroup-memory", "range(", "range(len(parts), "),
    ),
    # The node
    guard(
        "a program that is given up ends the node",
        "unit/test_supervise.py::test_a_program_that_does_not_start_ends_the_node",
        remove("given-up"),
    ),
    guard(
        "a node that stops has the agent host stop its agents",
        "unit/test_supervise.py::test_the_host_gets_another_signal_when_its_node_stops",
        remove("stopping-event"),
    ),
    guard(
        "a stop signal between fork and exec is not lost",
        "unit/test_supervise.py::test_a_starting_program_gets_the_signal",
        remove("signal-after-fork"),
    ),
    guard(
        "programs end when their supervisor is killed",
        "unit/test_supervise.py::test_the_programs_end_when_supervisord_is_killed",
        remove("parent-death"),
    ),
    guard(
        "orphans are killed when the node ends",
        "unit/test_supervise.py::test_no_orphan_is_left_after_the_stop",
        remove("kill-orphans"),
    ),
    guard(
        "a path is one word to the programs, whatever characters it has",
        "unit/test_paths.py::test_a_node_runs_in_a_folder_of_any_name",
        replace("quoted-path", 'shlex.quote(value) if option == "command" else ', ""),
    ),
    guard(
        "an error of supervisord shows no value of the environment",
        "unit/test_paths.py::test_an_error_of_supervisord_shows_no_value_of_the_environment",
        replace("supervisord-error", "ValueError", "KeyError"),
    ),
    guard(
        "a terminal that is closed stops the node",
        "unit/test_terminal.py::test_closing_the_terminal_stops_the_node",
        remove("hangup-stops"),
    ),
    guard(
        "a SIGHUP without a terminal is ignored",
        "unit/test_terminal.py::test_a_hangup_has_no_effect_without_a_terminal",
        replace("hangup-without-terminal", " or not self.hangup_stops", ""),
    ),
    guard(
        "a terminal that is closed cuts no drain short",
        "unit/test_terminal.py::test_closing_the_terminal_does_not_shorten_a_drain",
        never("hangup-while-draining"),
    ),
    guard(
        "a terminal that accepts no output delays nothing",
        "unit/test_terminal.py::test_a_blocked_terminal_does_not_block_the_node",
        remove("patient-terminal"),
    ),
    guard(
        "a second signal skips the drain",
        "unit/test_supervise.py::test_a_second_signal_stops_without_waiting_for_calls[15]",
        remove("second-signal"),
    ),
    guard(
        "the node warns when its drain does not fit into the kill window",
        "unit/test_kill_window.py::test_a_short_window_causes_a_warning_with_numbers_and_a_remedy",
        always("kill-window"),
    ),
    guard(
        "the api answers many clients while Redis is a black hole",
        "integration/test_api.py::test_a_black_holed_redis_is_answered_with_503_within_two_seconds",
        replace("redis-patience", "PATIENCE = 0.9", "PATIENCE = 3.0"),
    ),
    guard(
        "an Idempotency-Key stands for one start",
        "integration/test_api.py::test_fifty_requests_with_one_idempotency_key_are_one_start",
        never("idempotency-key"),
    ),
    guard(
        "the room of a session that is over is deleted",
        "integration/test_store.py::test_deleting_the_room_of_an_ended_session_is_retried_until_it_succeeds",
        remove("close-room"),
    ),
    guard(
        "time in which no process could check the deadlines does not count",
        "integration/test_store.py::test_deadlines_exclude_time_without_checks",
        never("blind-time"),
    ),
    guard(
        "an agent that was dead when it was handed out does not count as a failure",
        "integration/test_store.py::test_agents_dead_at_assignment_do_not_count_as_replacements",
        replace("dead-at-assignment", "unread and FOUND_DEAD or ", ""),
    ),
    guard(
        "a drain waits for rooms that are to be deleted",
        "integration/test_api.py::test_a_draining_node_refuses_starts_and_keeps_its_sessions",
        remove("drain-waits-for-rooms"),
    ),
    guard(
        "living agents register before starts are answered",
        "integration/test_store.py::test_running_agents_register_before_starts_are_answered",
        replace("living-first", "redis.call('EXISTS', 'policy', 'pool:target') < 2", "not policy('max_sessions')"),
    ),
    guard(
        "an agent's own heartbeat decides whether it lives",
        "integration/test_refill.py::test_an_agent_with_heartbeats_survives_the_loss_of_its_nodes_record",
        replace(
            "heartbeat-decides",
            "ended, next_suspects",
            "for agent in await store.agents():\n        await store.record_exit(agent.id, because('no_heartbeat'))\n"
            "    ended, next_suspects",
        ),
    ),
    guard(
        "a beat that begins asks for a refill",
        "integration/test_beat.py::test_a_starting_beat_queues_a_refill_immediately",
        never("refill-at-start"),
    ),
    guard(
        "a schedule that Redis has lost is written again",
        "integration/test_beat.py::test_a_schedule_lost_by_redis_is_written_again",
        remove("schedule-again"),
    ),
    # LiveKit's reports
    guard(
        "a webhook counts once, however often it is sent",
        "integration/test_webhook.py::test_a_replay_counts_once",
        replace("webhook-once", "'1', 'NX', ", "'1', "),
    ),
    guard(
        "a webhook's signature has no scheme in front",
        "integration/test_webhook.py::test_a_webhook_without_a_valid_signature_is_refused[a scheme]",
        replace("webhook-scheme", "authorization", "authorization.split()[-1]"),
        replace("webhook-scheme-first", "authorization", "authorization.split()[-1]"),
    ),
    guard(
        "no client is redirected to the Host that it sends",
        "integration/test_slashes.py::test_no_route_redirects",
        replace("no-redirect", "redirect_slashes=False", "redirect_slashes=True"),
    ),
    guard(
        "a path behind a proxy counts, taken off or passed on",
        "integration/test_root_path.py::test_every_page_loads_its_files_below_the_root_path[passed on-status-5]",
        remove("path-below"),
    ),
    guard(
        "the page knows its path without the slash at its end",
        "integration/test_root_path.py::test_the_root_path_without_a_slash_serves_the_page_without_a_redirect[stripped]",
        replace("page-base", '.replace("<head>", f\'<head>\\n    <base href="{root}/" />\', 1)', ""),
    ),
    guard(
        "no path of ours can be taken for one behind a proxy's",
        "unit/test_settings.py::test_a_bad_value_is_named[ROOT_PATH-/api-the api itself has /api/agents: take another path]",
        replace("own-paths", "in OWN", "in ()"),
    ),
    guard(
        "the documentation may load nothing foreign",
        "unit/test_docs_page.py::test_the_page_loads_only_our_own_files",
        replace("docs-headers", ", headers=_HEADERS", ""),
    ),
    guard(
        "a webhook has a size of its own",
        "integration/test_webhook.py::test_a_webhook_body_has_its_own_size_limit",
        replace("webhook-bytes", ", larger={WEBHOOK_PATH: webhook.BODY_BYTES}", ""),
    ),
    guard(
        "one check of LiveKit's rooms decides nothing",
        "integration/test_webhook.py::test_no_webhook_ends_a_call",
        replace("second-check", "since(finding)", "since(finding) or NOW - 99999"),
    ),
    guard(
        "LiveKit can revoke what only LiveKit has reported",
        "integration/test_webhook.py::test_a_user_whom_livekit_misses_twice_has_left",
        replace("livekit-takes-back", "or contradicted_since('user_gone') ", ""),
    ),
    guard(
        "the comparison with LiveKit's rooms leaves a takeover alone",
        "integration/test_webhook.py::test_an_agent_that_is_not_in_the_room_is_replaced",
        replace("takeover-state", " and agent_state(agent) == 'running'", ""),
        replace("takeover-agent", "(state == 'ready' or state == 'active') and get(key, 'agentId') == agent", "true"),
    ),
    guard(
        "each comparison with LiveKit's rooms schedules the next one, without any webhook",
        "chaos/test_untold.py::test_a_call_works_with_the_reconciler_alone",
        replace("next-reconciliation", "set_deadline_if_none('reconcile', ''", "local _ = math.max(0, 0"),
    ),
    guard(
        "only rooms that we name are deleted",
        "integration/test_webhook.py::test_foreign_rooms_are_not_queried",
        replace("own-rooms", "re.fullmatch(ROOM_PATTERN, session.room_name) is not None", "True"),
    ),
    guard(
        "the kernel kills an agent before its host when memory runs out",
        "unit/test_host.py::test_when_memory_ends_the_kernel_takes_an_agent_before_its_host",
        replace("oom-score", "OOM_SCORE_MORE = 300", "OOM_SCORE_MORE = 0"),
    ),
    # Several nodes
    guard(
        "a start goes to the node with the smallest load",
        "simulation/test_nodes.py::test_each_has_its_share_and_starts_go_where_there_is_most_room",
        replace("least-load", "+ load", "- load"),
    ),
    guard(
        "a user comes back to the node of the last time",
        "simulation/test_nodes.py::test_a_user_comes_back_to_the_same_node",
        replace("affinity", "node.id == prefer and 0 or ", ""),
    ),
    guard(
        "calls that outlast a drain go on elsewhere",
        "simulation/test_nodes.py::test_one_that_is_drained_hands_its_calls_over",
        never("handover"),
    ),
    guard(
        "the other nodes notice that a node is silent",
        "e2e/test_nodes.py::test_three_nodes_share_the_work_and_a_call_survives_its_node",
        returns("heartbeat-timeout"),
        STEP="a_vanished_node_is_replaced_by_the_others",
    ),
    guard(
        "a container that stops hands its calls over to the one that stays",
        "e2e/test_deploy.py::test_a_call_survives_a_deploy_and_the_pool_is_never_empty",
        never("handover"),
    ),
    guard(
        "the previous release can read what this release writes",
        "integration/test_model.py::test_two_releases_share_a_redis_for_the_length_of_a_deploy",
        never("node-sets"),
        HYPOTHESIS_PROFILE="guard",
    ),
    guard(
        "an agent whose record is lost leaves the lists of its node",
        "integration/test_store.py::test_an_agent_with_a_lost_record_is_removed_from_its_nodes_lists",
        never("recount"),
    ),
    guard(
        "a node boots its own share",
        "integration/test_nodes.py::test_each_node_boots_its_share",
        replace("own-share", "math.max(own, missing_agents(nodes) - others)", "missing_agents(nodes)"),
    ),
    guard(
        "nodes that are held back do not wake each other",
        "integration/test_nodes.py::test_nodes_held_back_by_the_breaker_do_not_wake_each_other",
        never("held-back"),
    ),
    guard(
        "a node whose agents do not boot is left alone",
        "integration/test_nodes.py::test_a_node_with_failing_boots_gets_no_boots",
        replace("sound-nodes", "#sound > 0 and sound or ", ""),
    ),
    guard(
        "a call is handed over only where it fits",
        "integration/test_nodes.py::test_a_call_is_not_handed_over_to_a_full_node",
        replace("handover-capacity", "can_serve_one_more", "any_node_in_service"),
    ),
    guard(
        "a full node serves nobody with what it has booted",
        "integration/test_nodes.py::test_an_agent_booted_on_a_full_node_joins_the_pool",
        replace("full-node-boots", "and may_serve_on(node) ", ""),
    ),
    guard(
        "a node that is late is asked last",
        "integration/test_nodes.py::test_a_node_with_a_late_heartbeat_is_chosen_last",
        replace("late-node", "node.late and 4 or", ""),
    ),
    guard(
        "a node has no more calls than it has room for",
        "integration/test_nodes.py::test_warm_agents_of_a_full_node_are_not_assigned",
        replace("node-capacity", "not node.max or (load or load_of(node)) < 1", "true"),
    ),
    guard(
        "a miss is booted where there is most room",
        "integration/test_nodes.py::test_a_miss_boots_on_the_node_with_most_free_capacity",
        never("boot-elsewhere"),
    ),
    guard(
        "a release leaves data that it does not understand alone",
        "integration/test_nodes.py::test_a_redis_of_an_incompatible_release_is_not_changed",
        never("schema"),
    ),
    # The voice
    guard(
        "hosted speech needs no offline speech",
        "unit/test_hosted.py::test_without_offline_speech_hosted_voices_are_enough",
        replace("offline-only-where-used", "if not (hear or speak)", "hear = speak = True\n    if False"),
    ),
    guard(
        "an agent leaves a pipeline that has closed",
        "unit/test_pipeline.py::test_a_session_that_closes_by_itself_is_handed_over",
        remove("pipeline-closed"),
    ),
    guard(
        "apologies do not count as answers",
        "unit/test_pipeline.py::test_the_agent_apologises_for_failed_turns_and_hands_over_at_the_fourth",
        replace("apologies", "_spoken_to = False", "_spoken_to, self._failures = False, 0"),
    ),
    guard(
        "a provider's refusal ends the call at once",
        "unit/test_pipeline.py::test_a_permanent_refusal_ends_the_call_immediately",
        replace("refusal-ends", "for_good or ", ""),
    ),
    guard(
        "no secret reaches a log, not even in a library's traceback",
        "unit/test_logs.py::test_no_secret_in_a_message_a_fact_or_a_traceback_however_deep",
        replace("secrets-in-logs", "self._redact(super().format(record))", "super().format(record)"),
    ),
    guard(
        "the reason why an agent left contains no secret",
        "unit/test_runtime.py::test_a_secret_in_an_exception_is_in_no_reason",
        replace("secrets-in-reasons", "Redaction()(text)", "text"),
    ),
    guard(
        "the data that a caller sends is counted",
        "integration/test_incoming.py::test_a_call_ends_when_its_caller_sends_too_much_data",
        remove("caller-traffic"),
    ),
    guard(
        "one stream of a caller has a largest size",
        "integration/test_incoming.py::test_an_oversized_compressed_stream_is_cut_and_the_chat_continues",
        replace("stream-bytes", "rtc.DataStreamOptions(max_payload_byte_length=STREAM_BYTES)", "None"),
    ),
    guard(
        "an agent that is silent but lives counts as one that has stopped serving",
        "integration/test_alerts.py::test_calls_with_running_and_silent_agents_count_as_failing",
        replace("silent-fails", "count_failing_call(session, cause, true) ", ""),
    ),
    guard(
        "a warm agent that reads no messages leaves the pool",
        "unit/test_runtime.py::test_a_warm_agent_that_beats_and_does_not_hear_goes",
        never("deaf-agent"),
    ),
    guard(
        "the relay is told of a message at once",
        "integration/test_relay.py::test_a_message_is_announced_to_the_relay_of_the_agents_node",
        remove("mail"),
    ),
    guard(
        "an agent speaks for itself only",
        "integration/test_relay.py::test_a_process_speaks_only_for_its_own_agent",
        never("relay-peer"),
    ),
    guard(
        "an agent that connects gets what is in its inbox",
        "integration/test_relay.py::test_a_message_stays_in_redis_until_the_agent_has_confirmed_it",
        remove("inbox-at-hello"),
    ),
    guard(
        "a message that was not announced comes at the next heartbeat",
        "integration/test_relay.py::test_a_message_that_nobody_announced_comes_at_the_heartbeat",
        remove("inbox-at-beat"),
    ),
    guard(
        "a message that an agent has confirmed leaves its inbox",
        "integration/test_relay.py::test_a_session_goes_through_the_relay",
        remove("mail-confirmed"),
    ),
    guard(
        "a message that is delivered twice is taken once",
        "integration/test_relay.py::test_a_message_that_is_delivered_twice_is_taken_once",
        always("mail-once"),
    ),
    guard(
        "what a relay has not answered is sent to the next one",
        "integration/test_relay.py::test_requests_without_an_answer_are_sent_again_to_the_next_relay",
        replace("relay-resend", "self._pending.values()", "()"),
    ),
    guard(
        "a turn that is reported twice is kept once",
        "integration/test_relay.py::test_requests_without_an_answer_are_sent_again_to_the_next_relay",
        never("turn-once"),
    ),
    guard(
        "only an agent's own session has its first sound from it",
        "integration/test_relay.py::test_a_first_sound_is_reported_by_the_sessions_own_agent",
        never("first-audio-agent"),
    ),
    guard(
        "a relay that hangs is killed",
        "e2e/test_survival.py::test_calls_survive_the_loss_of_programs_redis_and_livekit",
        remove("relay-hangs"),
        STEP="a_hung_program_is_replaced_while_calls_continue",
    ),
    guard(
        "the relay is restarted",
        "chaos/test_survival.py::test_a_call_continues_when_a_program_is_killed[relay]",
        replace("restart-relay", "autorestart=true", "autorestart=false"),
    ),
    guard(
        "an agent whose event loop is blocked is silent",
        "e2e/test_sessions.py::test_sessions_from_their_start_to_their_end",
        returns("heartbeat-timeout"),
        STEP="hung_agents_are_replaced_and_calls_continue",
    ),
    guard(
        "connections follow a failover",
        "integration/test_failover.py::test_every_connection_of_the_store_moves_to_the_new_server",
        remove("moved-connection"),
    ),
    guard(
        "a cancellation ends a command whenever it comes",
        "integration/test_connection.py::test_a_command_can_be_cancelled_at_any_step",
        never("cancelled-while-sending"),
    ),
    guard(
        "Celery's connections follow a failover",
        "integration/test_failover.py::test_beat_moves_to_the_new_server",
        remove("moved-celery-connection"),
    ),
    guard(
        "a node follows a failover though the old server lives",
        "chaos/test_redis_black_hole.py::test_clients_follow_a_failover_while_the_old_server_still_runs",
        replace("failover-codes", 'frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})', "frozenset()"),
    ),
    guard(
        "something else that answers is not LiveKit",
        "unit/test_livekit_refusals.py::test_the_operator_gets_livekits_own_text[200-<html>sign in</html>-0-expected10]",
        never("not-livekit"),
    ),
    guard(
        "the node's loops survive any exception",
        "unit/test_loops.py::test_each_loop_of_the_node_survives_unexpected_errors[heartbeat]",
        replace("loop-survives", "Exception", "StoreUnavailable"),
    ),
    guard(
        "the change feed survives any failure",
        "unit/test_loops.py::test_the_change_feed_survives_unexpected_errors",
        replace("feed-survives", "Exception", "StoreUnavailable"),
    ),
    guard(
        "each call whose agent lives but has stopped serving is counted once",
        "integration/test_alerts.py::test_failing_agents_are_reported_until_a_call_is_answered",
        replace(
            "failing-once",
            "if redis.call('HSETNX', 'session:' .. session, 'failing', 1) == 0 then return end",
            "redis.call('HSET', 'session:' .. session, 'failing', 1)",
        ),
    ),
    guard(
        "a task of another program is returned to the queue",
        "integration/test_neighbours.py::test_every_task_of_another_app_runs_in_that_app",
        remove("foreign-task"),
    ),
    guard(
        "a task that another program holds is not returned to the queue",
        "integration/test_neighbours.py::test_our_worker_does_not_requeue_unacknowledged_tasks_of_another_app",
        remove("unacked-index"),
        remove("unacked"),
    ),
    guard(
        "every script's keys have the prefix",
        "integration/test_prefix.py::test_a_session_leaves_no_key_without_the_prefix",
        replace("key-prefix", "PREFIX .. ", ""),
    ),
    guard(
        "certificates are checked by every client alike",
        "integration/test_clients.py::test_every_kind_of_client_checks_the_certificate",
        replace("tls-verify", '"required" if self.verify else "none"', '"none"'),
        replace("tls-hostname", '"ssl_check_hostname": self.verify', '"ssl_check_hostname": False'),
    ),
    guard(
        "the embedded Valkey asks for a password",
        "integration/test_clients.py::test_the_embedded_valkey_requires_its_password",
        replace("valkey-password", "requirepass {password}\n", ""),
    ),
    guard(
        "everything that is installed into the image has a known hash",
        "unit/test_pins.py::test_the_image_installs_nothing_without_a_hash",
        replace("image-hashes", "--require-hashes ", ""),
    ),
    guard(
        "every key is tried with the rights of Redis's user",
        "integration/test_clients.py::test_every_documented_key_is_tried_at_the_start",
        replace("key-rights", " address:sessions:x room:asker:x", ""),
    ),
    guard(
        "an agent has time for its work after the call",
        "integration/test_store.py::test_an_agent_has_time_for_its_work_after_the_call_and_its_seat_is_free",
        remove("wind-down"),
    ),
    guard(
        "an agent whose AgentSession LiveKit has closed with an error hands its call over",
        "unit/test_livekit_agents.py::test_an_agent_whose_session_has_failed_hands_the_call_over",
        never("livekit-session-failed"),
    ),
    guard(
        "a job that ends before it connects ends the call",
        "e2e/test_unchanged.py::test_worker_options_run_unchanged",
        remove("livekit-not-connected"),
        STEP="a_job_that_ends_before_it_connects_ends_the_call",
    ),
    guard(
        "one stream of a caller has a maximum size for agents of LiveKit's worker too",
        "unit/test_livekit_agents.py::test_a_caller_may_send_these_agents_no_more_than_others",
        remove("stream-bytes-livekit"),
    ),
    guard(
        "the relay serves a node's agents to their end when its main process is killed",
        "e2e/test_nodes.py::test_three_nodes_share_the_work_and_a_call_survives_its_node",
        never("relay-stays"),
        STEP="a_node_with_a_killed_main_process_hands_its_calls_over",
    ),
)
