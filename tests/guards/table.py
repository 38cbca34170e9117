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
        "integration/test_gate.py::test_credentials_are_looked_at_before_a_byte_of_the_body",
        replace(
            "credentials-before-body",
            "caller = request.state",
            "await request.body()\n            caller = request.state",
        ),
    ),
    guard(
        "a body's depth is bounded before anything recurses",
        "integration/test_gate.py::test_depth_is_refused_before_anything_recurses",
        replace("body-depth", "bound(await _body(request))", "await _body(request)"),
    ),
    guard(
        "an answer lists few errors",
        "integration/test_gate.py::test_errors_are_few_and_short",
        replace("error-count", "[:ERRORS]", ""),
    ),
    guard(
        "no header can forge an internal key",
        "integration/test_gate.py::test_no_header_forges_a_key_of_ours",
        replace("key-scope", 'hashlib.sha256(f"{scope}\\n{key}".encode()).hexdigest()', "key"),
    ),
    guard(
        "a header is bounded in bytes",
        "unit/test_protocol.py::test_what_is_too_large_is_refused_before_it_is_kept",
        never("header-bytes"),
    ),
    guard(
        "a request is bounded in seconds",
        "unit/test_protocol.py::test_who_never_comes_to_an_end_is_cut_off",
        never("request-seconds"),
    ),
    guard(
        "connections are bounded in all",
        "unit/test_protocol.py::test_the_silent_make_room_for_who_asks",
        never("connections"),
    ),
    guard(
        "connections of one address are bounded",
        "unit/test_protocol.py::test_one_address_has_so_many_connections_and_a_proxy_any_number",
        replace("connections-per-address", "len(mine) >= self._per_address > 0", "False"),
    ),
    guard(
        "a port listens before the app is loaded",
        "unit/test_sockets.py::test_it_listens_before_the_app_is_loaded",
        remove("listen-before-load"),
    ),
    guard(
        "a full Redis takes no new work",
        "integration/test_refusing_redis.py::test_a_full_redis_takes_no_new_work_though_a_warm_agent_is_there",
        remove("memory-before-work"),
    ),
    guard(
        "MAX_SESSIONS is checked in the step that takes the agent",
        "simulation/test_capacity.py::test_the_cap_holds_at_every_moment_of_a_rush",
        never("cap"),
    ),
    guard(
        "the end of a session and the next one's turn are one step",
        "simulation/test_capacity.py::test_the_line_is_first_come_first_served_and_moves_at_once",
        remove("promote"),
    ),
    guard(
        "a new session queues behind those that wait, even if there is room",
        "simulation/test_capacity.py::test_whoever_comes_later_stands_behind_even_when_a_place_is_free",
        never("queue-first"),
        remove("promote"),
    ),
    guard(
        "a wait in line ends",
        "simulation/test_capacity.py::test_a_place_in_line_is_given_up_in_time_and_by_its_user",
        never("queue-timeout"),
    ),
    guard(
        "a wait is estimated from how long sessions were",
        "chaos/test_capacity.py::test_the_line_is_told_how_long_it_takes_once_that_is_known",
        replace(
            "wait-estimate", "session * position / await self._max_sessions()", "position / self._settings.max_sessions"
        ),
    ),
    guard(
        "the sessions of a user are counted",
        "simulation/test_capacity.py::test_one_user_never_has_more_than_their_share",
        never("sessions-per-user"),
    ),
    guard(
        "an agent's process is checked right before it is handed out",
        "integration/test_api.py::test_however_many_of_the_warm_agents_are_dead_no_session_is_lost_by_it",
        always("process-alive"),
    ),
    guard(
        "shrinking takes from the pool only",
        "simulation/test_capacity.py::test_a_storm_of_starts_while_the_pool_is_resized",
        replace(
            "shrink-pool-only",
            "redis.call('SINTER', 'pool:ready', 'pool:stale')[1] or agent_above_share(want)",
            "redis.call('SRANDMEMBER', 'agents')",
        ),
    ),
    guard(
        "starts are counted by the peer's address",
        "chaos/test_capacity.py::test_a_flood_from_one_address_leaves_the_others_alone",
        replace(
            "peer-address", 'request.client.host if request.client else ""', 'request.headers.get("x-real-ip", "")'
        ),
    ),
    guard(
        "no agent is started while memory is low",
        "chaos/test_capacity.py::test_no_agent_is_started_without_memory_and_the_reason_is_told",
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
        "integration/test_store.py::test_a_silent_agent_is_passed_over_and_comes_back_with_its_heartbeat",
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
        "chaos/test_capacity.py::test_the_pool_grows_with_what_arrives_and_says_why",
        replace("arrivals", "'INCR', bucket", "'SET', bucket, 0"),
    ),
    # Users
    guard(
        "a session that registers is not forgotten",
        "integration/test_refill.py::test_a_session_whose_own_record_is_gone_counts_no_more",
        never("end-lost-only"),
    ),
    guard(
        "the command line ends without exit handlers",
        "unit/test_process.py::test_the_command_line_ends_without_exit_handlers",
        replace("call-ends-quietly", "end_after(run)", "run()"),
    ),
    guard(
        "scripts are assembled before agents are forked",
        "unit/test_runtime.py::test_what_every_agent_reads_is_read_before_the_fork",
        remove("read-before-fork"),
    ),
    guard(
        "a user whose connection was lost is waited for less long",
        "integration/test_store.py::test_who_lost_the_connection_is_waited_for_less_long_than_who_left",
        replace("lost-connection", "(lost and 4 or 1)", "1"),
    ),
    guard(
        "a client that dies frees its agent as soon as is promised",
        "chaos/test_users.py::test_a_client_that_dies_frees_its_agent_within_thirty_seconds",
        replace("lost-connection", "(lost and 4 or 1)", "1"),
    ),
    guard(
        "a user has one identity in the room from every tab",
        "chaos/test_users.py::test_a_second_tab_goes_on_with_the_call",
        replace("one-identity", "user_identity(room)", 'new_id("user")'),
    ),
    guard(
        "a client secret is good for its own session alone",
        "integration/test_access.py::test_a_client_secret_is_good_for_its_own_session_alone",
        replace(
            "client-secret-session",
            "hmac.compare_digest(_digest(secret), _digest(self.client_secret(session_id)))",
            "True",
        ),
    ),
    guard(
        "a client secret ends a little after its session",
        "integration/test_access.py::test_a_client_secret_is_good_until_a_little_after_the_end",
        replace("client-secret-expiry", "ended is not None", "False"),
    ),
    guard(
        "an api that is open is open to this machine alone",
        "integration/test_access.py::test_open_means_this_machine_alone",
        always("loopback-only"),
    ),
    guard(
        "a string like a client secret opens only its own session's routes",
        "integration/test_strangers.py::test_what_looks_like_a_client_secret_opens_nothing_on_any_route",
        replace("client-secret-routes", "access.starter", "access.caller"),
    ),
    guard(
        "only the operator reads the cause of an error",
        "integration/test_operators_words.py::test_a_boot_error_is_the_operators",
        replace("error-detail", " if _is_operator(request) else caller_words.problem(failure.code)", ""),
    ),
    guard(
        "only the operator reads the warnings within an error",
        "integration/test_refusing_redis.py::test_the_health_route_answers_and_names_it",
        replace("caller-warning-codes", " if _is_operator(request)]", "]"),
    ),
    guard(
        "callers read no detail of an unexpected error",
        "integration/test_operators_words.py::test_an_unexpected_error_is_the_operators",
        replace("unexpected-error-detail", ' if _is_operator(request) else caller_words.problem("internal_error")', ""),
    ),
    guard(
        "where no credentials are needed, secrets cannot be guessed either",
        "integration/test_operators_words.py::test_a_route_without_credentials_is_no_place_to_guess_the_token",
        never("guessed-secret"),
    ),
    guard(
        "callers read the code of a reason or cause, not its text",
        "unit/test_caller_words.py::test_a_reason_is_told_by_its_code",
        replace(
            "reason-code",
            'reasons.for_callers(Reason(code or "", params or {}, text))',
            'Reason(code or "", params or {}, text)',
        ),
    ),
    guard(
        "callers read fixed sentences about a session",
        "integration/test_operators_words.py::test_of_an_agent_that_fails_callers_get_the_code",
        never("caller-view"),
    ),
    guard(
        "callers read fixed sentences in a session's events",
        "integration/test_operators_words.py::test_the_stream_of_events_tells_a_caller_no_more",
        replace("caller-events", " if caller.role is Role.ADMIN else caller_view.event", ""),
    ),
    guard(
        "health shows callers that something is wrong, but not why",
        "integration/test_operators_words.py::test_a_boot_error_is_the_operators",
        replace("caller-health", " if caller.role is Role.ADMIN else caller_view.health(reply)", ""),
    ),
    guard(
        "only the operator reads logs",
        "integration/test_operators_words.py::test_of_an_agent_that_fails_callers_get_the_code",
        never("logs-for-admin"),
    ),
    guard(
        "a session's reason says who stopped it",
        "integration/test_operators_words.py::test_who_ended_a_session_is_told",
        replace("stopped-by", "_STOPPED[caller.role]", '"stopped by request"'),
    ),
    guard(
        "an open api gives a live session only to the client that began it",
        "integration/test_strangers.py::test_an_open_api_gives_a_live_session_to_nobody_but_who_began_it",
        never("session-of-its-starter"),
    ),
    guard(
        "no caller names a user for whom a room stands",
        "integration/test_strangers.py::test_no_caller_names_a_user_for_whom_a_room_stands",
        never("reserved-user"),
    ),
    guard(
        "one address has few sessions",
        "integration/test_strangers.py::test_one_address_takes_few_seats_and_few_places_in_line",
        never("sessions-per-address"),
    ),
    guard(
        "an IPv6 network has the limits of a few addresses",
        "integration/test_strangers.py::test_a_network_of_ipv6_is_a_few_addresses_and_no_more",
        replace("address-network", "{network, NETWORK_SHARE}", "nil"),
    ),
    guard(
        "a user is not left in a room that no agent serves",
        "integration/test_strangers.py::test_who_sits_in_a_room_that_nobody_serves_is_not_left_there",
        remove("close-unserved-room"),
    ),
    guard(
        "wrong secrets are tried only so often",
        "integration/test_strangers.py::test_wrong_secrets_are_tried_only_so_often",
        replace("wrong-secrets", "seen.wrong >= MOST", "False"),
    ),
    guard(
        "a client cannot choose its room",
        "integration/test_token.py::test_no_request_yields_a_token_for_more",
        replace(
            "room-chosen", 'if body.room_name not in {None, "", room}', "room = body.room_name or room\n    if False"
        ),
    ),
    guard(
        "LiveKit's own attributes are refused",
        "integration/test_token.py::test_what_a_client_may_not_choose_is_refused",
        replace("livekit-attributes", 'lower().startswith("lk.")', 'startswith("LK.")'),
    ),
    guard(
        "no agent gets variables that are not for agents",
        "e2e/test_access.py::test_operators_have_what_they_need_and_strangers_get_nothing",
        remove("agent-environment"),
        replace("program-secrets", "NEEDS[program]", "environment"),
        STEP="secrets_are_where_they_are_needed_and_nowhere_else",
    ),
    guard(
        "Compose has no secret that everybody knows",
        "unit/test_shipped_secrets.py::test_no_shipped_file_has_a_secret_that_everybody_knows",
        replace("compose-secret", "LIVEKIT_API_SECRET:-", "LIVEKIT_API_SECRET:-for-trying"),
    ),
    guard(
        "health warns when callers cannot reach LiveKit",
        "integration/test_access.py::test_health_tells_of_callers_that_cannot_reach_livekit",
        remove("livekit-unreachable"),
    ),
    guard(
        "secrets that somebody else could have written are not read",
        "unit/test_private.py::test_secrets_that_may_be_somebody_elses_are_nobodys_word",
        remove("private-owner"),
        remove("private-file-owner"),
        never("private-file-mode"),
    ),
    guard(
        "a node refuses a folder that another user could have filled",
        "unit/test_private.py::test_up_refuses_it_before_anything_is_written",
        remove("private-folder"),
    ),
    guard(
        "each program of a node has its own secrets and no other",
        "e2e/test_access.py::test_operators_have_what_they_need_and_strangers_get_nothing",
        replace("program-secrets", "NEEDS[program]", "environment"),
        STEP="each_program_was_started_with_its_own_secrets_and_no_other",
    ),
    guard(
        "supervisord's environment has no secret",
        "unit/test_programs.py::test_supervisords_environment_has_none_and_each_program_gets_its_own",
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
        "unit/test_sealed.py::test_others_of_its_user_read_neither_its_environment_nor_its_memory",
        remove("sealed"),
    ),
    guard(
        "zombies of sealed programs are seen",
        "integration/test_invariants.py::test_a_zombie_of_a_sealed_program",
        replace("sealed-census", "settings.node_id if process.pid in supervised", '"" if False'),
    ),
    guard(
        "an api that stops ends its streams",
        "e2e/test_access.py::test_operators_have_what_they_need_and_strangers_get_nothing",
        replace("streams-stop", "_on_stop_signal(feed.close)", "contextlib.nullcontext()"),
        STEP="a_stop_with_open_streams_waits_for_none",
    ),
    guard(
        "LiveKit keeps a room as long as its user is waited for",
        "chaos/test_users.py::test_who_leaves_may_come_back_for_as_long_as_is_set",
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
        STEP="agents_that_serve_no_more_are_replaced_and_heard_again",
    ),
    guard(
        "the number of takeovers is bounded",
        "e2e/test_sessions.py::test_sessions_from_their_start_to_their_end",
        never("takeover-limit"),
        STEP="the_third_death_ends_the_call_with_the_last_cause",
    ),
    guard(
        "the conversation is handed over",
        "e2e/test_voice.py::test_people_talk_with_agents",
        replace("conversation", "table.concat(turns, ',')", "''"),
        STEP="the_next_voice_knows_the_users_name_and_what_was_said",
    ),
    # Survival
    guard(
        "a new agent host adopts the agents of the previous one",
        "chaos/test_survival.py::test_a_call_does_not_notice_that_a_program_is_killed[host]",
        remove("adopt"),
    ),
    guard(
        "a restart of the agent host alone ends no call",
        "chaos/test_survival.py::test_a_call_does_not_notice_that_programs_are_restarted",
        remove("host-hangup"),
    ),
    guard(
        "a Celery worker that connects gets the list of living agents",
        "chaos/test_survival.py::test_calls_outlive_many_celery_workers",
        replace("registered-agents", "{process.agent_id for process in living} |", ""),
    ),
    guard(
        "requests get a problem that says that Redis is away",
        "chaos/test_survival.py::test_calls_outlive_a_crash_of_redis_that_lasts",
        never("redis-away"),
        never("redis-away-cause"),
    ),
    guard(
        "a program waits when Redis refuses a command because of its own state",
        "unit/test_refusals.py::test_the_servers_state_is_a_wait",
        replace("redis-refusal", "code not in _MISTAKES", "False"),
    ),
    guard(
        "beat waits for Redis without ending its process",
        "chaos/test_redis_refuses.py::test_no_program_gives_up_on_a_redis_that_does_not_serve[gone]",
        replace("beat-waits", "self._say(cause)", "raise"),
    ),
    guard(
        "supervisord never gives up on a program that has run once",
        "unit/test_supervise.py::test_what_has_run_is_started_again_without_end",
        remove("restart-forever"),
    ),
    guard(
        "a full disk does not end the agent host",
        "unit/test_full_disk.py::test_the_host_tells_who_died_and_refuses_with_the_cause",
        replace("host-full-disk", "OSError", "KeyError"),
    ),
    guard(
        "an agent that lives registers again",
        "chaos/test_survival.py::test_calls_outlive_the_loss_of_all_records[flush]",
        replace("register-again", "await self._register()", '"unknown"'),
    ),
    guard(
        "starts wait until living agents have registered",
        "chaos/test_survival.py::test_calls_outlive_the_loss_of_all_records[flush]",
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
        "simulation/test_capacity.py::test_a_killed_warm_agent_is_never_handed_out",
        always("may-live"),
    ),
    guard(
        "starts wait until living agents of other nodes have registered",
        "simulation/test_loss.py::test_the_cap_holds_though_redis_comes_back_empty[3]",
        replace("wait-for-heartbeats", "max(0.0, began + heartbeat - self._clock.monotonic())", "0"),
    ),
    guard(
        "supervisord starts the Celery worker again",
        "chaos/test_kill_loop.py::test_after_any_deaths_records_and_machine_agree",
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
        "chaos/test_redis_black_hole.py::test_a_black_hole_is_answered_at_once_and_heals[silent for good]",
        replace("redis-timeout", "socket_timeout=patience", "socket_timeout=None"),
    ),
    guard(
        "another node's agent continues the call of an agent that must leave",
        "e2e/test_nodes.py::test_three_nodes_share_the_work_and_a_call_outlives_its_node",
        replace("stop-hands-over", "context.stop(", "context.leave("),
        STEP="one_whose_main_process_is_killed_hands_its_calls_over",
    ),
    guard(
        "a connection that was idle while Redis restarted is not handed out",
        "integration/test_connection.py::test_connections_that_were_idle_over_a_restart_of_redis_fail_nobody[connect]",
        replace("idle-connection", "enabled=False", ""),
    ),
    guard(
        "only the deadline decides that an agent is silent",
        "integration/test_refill.py::test_examining_finds_each_fault",
        replace("only-deadline-ends", "memory_limit", "memory_limit and agent.last_beat is None"),
    ),
    guard(
        "an agent is the process that the host started, or one below it",
        "integration/test_identity.py::test_a_process_that_claims_a_running_boot_gets_nothing",
        never("agent-process"),
    ),
    guard(
        "the process id that the agent host reports is the agent's",
        "integration/test_identity.py::test_what_counts_as_warm_can_be_handed_out[False-a shell script]",
        never("host-process-id"),
    ),
    guard(
        "a call is handed over when a task that it needs ends",
        "unit/test_runtime.py::test_an_entrypoint_whose_inner_task_is_cancelled_is_not_silent",
        replace("watched-task", " and not task.cancelled()", ""),
    ),
    guard(
        "a forked agent keeps the files and sockets that its module opened",
        "unit/test_loaded.py::test_environment_files_and_sockets_stay_and_random_numbers_differ",
        replace("close-inherited", "disown()", "os.closerange(3, 256)"),
    ),
    guard(
        "each agent has its own random numbers",
        "unit/test_loaded.py::test_environment_files_and_sockets_stay_and_random_numbers_differ",
        remove("reseed"),
    ),
    guard(
        "a host that does not answer is killed",
        "chaos/test_survival.py::test_a_host_that_hangs_is_replaced_and_no_call_notices",
        remove("host-hangs"),
    ),
    # Retries and doubles
    guard(
        "supervisord starts the api again",
        "chaos/test_doubles.py::test_no_start_is_lost_while_the_api_is_killed_again_and_again",
        replace("restart-api", "autorestart=true", "autorestart=false"),
    ),
    guard(
        "an agent whose session Redis has lost registers again",
        "chaos/test_doubles.py::test_an_agent_whose_session_redis_forgot_says_so_again[session]",
        replace("lost-session", "not session_state(session)", "false"),
    ),
    guard(
        "the lock of a beat that was killed runs out",
        "chaos/test_doubles.py::test_two_beats_are_one_and_a_killed_one_is_replaced",
        replace("beat-lock", '"redbeat_lock_timeout": 15', '"redbeat_lock_timeout": 1500'),
    ),
    guard(
        "all tasks that wait for a boot learn its result",
        "chaos/test_flood.py::test_a_spawn_task_that_comes_again_and_again_starts_one_agent",
        replace(
            "boot-decided",
            'await self._blocking.blmove(decided, decided, min(remaining, BLOCK_SECONDS), "LEFT", "RIGHT")',
            "(await self._blocking.blpop([decided], min(remaining, BLOCK_SECONDS)) or [None])[-1]",
        ),
    ),
    # Crash points
    guard(
        "a boot that nobody has claimed is given up",
        "chaos/test_crash_points.py::test_a_session_gets_one_agent_whoever_fails_at[api.after_assign-kill]",
        replace("boot-unclaimed", "exit_agent(id, UNCLAIMED)", "return"),
    ),
    guard(
        "a boot that takes too long is given up",
        "chaos/test_crash_points.py::test_a_session_gets_one_agent_whoever_fails_at[agent.before_ready-hang]",
        returns("boot-timeout"),
    ),
    guard(
        "a forked child records itself before anything else",
        "unit/test_host.py::test_a_host_killed_at_the_fork_leaves_no_unknown_agent[fork]",
        remove("record-self"),
    ),
    guard(
        "an agent that is recorded as exited but still lives is stopped",
        "chaos/test_crash_points.py::test_a_worker_that_dies_before_it_does_what_a_missed_deadline_asks_for",
        never("stop-exited"),
    ),
    guard(
        "the agent host reports a death until it is acknowledged",
        "chaos/test_crash_points.py::"
        "test_a_death_is_acted_on_once_though_its_witness_dies[kill-watch.before_record_death]",
        replace("death-until-acknowledged", "encode(death) for death in self._children.deaths.values()", ""),
    ),
    guard(
        "a death is reported again, or found by the list, the heartbeat or the health check",
        "chaos/test_crash_points.py::test_a_death_in_the_pool_is_made_up_for_though_its_witness_dies[watch.before_record_death]",
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
        "chaos/test_poison.py::test_a_module_that_kills_its_agents[exit]",
        replace("breaker", "failures < BREAKER_FAILURES", "true"),
    ),
    guard(
        "a session that has no agent ends",
        "chaos/test_poison.py::test_a_boot_that_is_too_slow_is_an_error_in_time_and_no_process_is_left",
        returns("start-timeout"),
    ),
    guard(
        "conversations are deleted from the disk",
        "integration/test_forgetting.py::test_what_was_said_is_gone_from_the_disk",
        remove("forget-on-disk"),
    ),
    guard(
        "records are bounded by their number",
        "integration/test_forgetting.py::test_records_are_bounded_by_their_number",
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
        "integration/test_joining.py::test_a_phone_that_rings_is_no_user_until_it_is_answered",
        replace("ringing", 'kind != "SIP"', "True"),
    ),
    guard(
        "an answer and a hang-up are seen when they happen",
        "unit/test_presence.py::test_an_agent_waits_until_the_phone_is_answered",
        remove("attributes-changed"),
    ),
    guard(
        "a refusal that any agent would get uses up one agent only",
        "integration/test_joining.py::test_what_every_agent_would_be_refused_ends_the_session_at_once",
        never("permanent-refusal"),
    ),
    guard(
        "the agent's room is created when LiveKit does not create it",
        "integration/test_joining.py::test_the_room_is_made_for_the_agent_though_no_user_asks",
        remove("make-room"),
    ),
    guard(
        "LiveKit's error messages are shown without tokens",
        "unit/test_livekit_refusals.py::test_words_are_livekits_own_without_its_token",
        replace("livekit-token-in-words", "without_tokens(text[:_READ])", "text"),
    ),
    guard(
        "identities fit into LiveKit's limit",
        "unit/test_livekit_refusals.py::test_identities_stay_within_livekits_limit",
        always("identity-bytes"),
    ),
    guard(
        "a node that is put back ends no call",
        "integration/test_nodes.py::test_a_node_that_is_put_back_ends_no_call_however_often",
        replace(
            "undrain-goodbye",
            "redis.call('ZREM', 'deadlines', 'goodbye|' .. id) == 1",
            "redis.call('ZSCORE', 'deadlines', 'goodbye|' .. id)",
        ),
    ),
    guard(
        "a node that came back keeps its queue",
        "integration/test_nodes.py::test_a_node_that_came_back_is_not_forgotten",
        replace("forget-queue", "redis.call('EXISTS', key) == 1", "false"),
    ),
    guard(
        "a LiveKit that hangs is noticed",
        "chaos/test_livekit.py::test_a_livekit_that_stands_still_ends_no_call",
        replace("livekit-hangs", "REQUEST_SECONDS", "None"),
    ),
    guard(
        "starts are refused while LiveKit is away",
        "chaos/test_livekit.py::test_signalling_is_swallowed_and_the_call_goes_on",
        remove("livekit-down"),
    ),
    guard(
        "an agent tries again to join",
        "chaos/test_livekit.py::test_an_agent_that_cannot_join_yet_tries_until_it_can",
        replace("join-retry", "rtc.ConnectError", "KeyError"),
    ),
    guard(
        "while LiveKit is away nobody is replaced for not joining",
        "chaos/test_livekit.py::test_an_agent_that_cannot_join_yet_tries_until_it_can",
        never("livekit-down-join"),
    ),
    guard(
        "supervisord starts LiveKit again",
        "chaos/test_livekit.py::test_a_livekit_that_was_killed_loses_no_call_and_leaves_none_hanging",
        replace("restart-livekit", "autorestart=true", "autorestart=false"),
    ),
    # Drain, reload
    guard(
        "the drain waits for the calls",
        "e2e/test_drain.py::test_calls_are_heard_until_the_drain_is_over",
        never("drain-waits"),
    ),
    guard(
        "the drain waits for the calls though Redis is away",
        "chaos/test_drain_without_redis.py::test_calls_are_heard_until_the_drain_is_over[gone for good]",
        replace("drain-counts-processes", "self._count_living_agents()", "0"),
    ),
    guard(
        "the drain waits for living agents even if the api fails",
        "unit/test_drain.py::test_whatever_is_wrong_with_the_api_the_agents_that_live_have_their_time",
        replace("drain-counts-processes", "self._count_living_agents()", "0"),
    ),
    guard(
        "agents learn that their node stops though Redis is away",
        "unit/test_runtime.py::test_without_redis_an_agent_parts_by_its_nodes_word",
        remove("parting-word"),
    ),
    guard(
        "agents ignore the shutdown notice that a killed node left behind",
        "unit/test_drain.py::test_what_a_killed_node_has_left_says_nothing",
        replace("parting-of-another", "and _has_writer(file) ", ""),
    ),
    guard(
        "a caller does not read or drive the agent's session",
        "e2e/test_voice.py::test_people_talk_with_agents",
        replace("session-host", ", session_host=False", ""),
        STEP="a_caller_reads_and_drives_no_more_of_the_agent_than_by_voice",
    ),
    guard(
        "typed words are not taken unless that is wanted",
        "e2e/test_voice.py::test_people_talk_with_agents",
        replace("typed-words", "_text_input()", "True"),
        STEP="a_caller_reads_and_drives_no_more_of_the_agent_than_by_voice",
    ),
    guard(
        "a command that waits for a drain or a reload continues to wait while Redis is away",
        "unit/test_commands.py::test_what_is_waited_for_goes_on_while_redis_is_away",
        replace("wait-without-redis", "StoreUnavailable", "NotFound"),
    ),
    guard(
        "the end of a call is recorded by the drain, or by the agent that is told to stop",
        "chaos/test_drain.py::test_without_a_drain_the_state_is_consistent_all_the_same",
        replace("end-reported", "self.reports.end(outcome, reason)", "asyncio.sleep(0)"),
        returns("goodbye-timeout"),
    ),
    guard(
        "agents are told that the drain is nearly over",
        "e2e/test_voice.py::test_people_talk_with_agents",
        replace("goodbye", "type = 'goodbye', seconds = goodbye_ms / 1000", "type = 'other'"),
        STEP="the_voice_says_goodbye_before_its_node_stops",
    ),
    guard(
        "warm agents of older code are replaced",
        "chaos/test_reload.py::test_new_code_comes_live_beside_a_call_on_the_old_code",
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
        "chaos/test_flood.py::test_a_flood_of_output_is_bounded_and_nobody_else_notices",
        replace("flooded-log", "agent_log_bytes", "agent_log_bytes * 1000"),
    ),
    guard(
        "TERM, then KILL at the deadline",
        "chaos/test_flood.py::test_an_agent_that_will_not_go_is_gone_ten_seconds_after_its_end[deaf]",
        remove("kill-after-term"),
    ),
    guard(
        "a process is its pid and its start",
        "chaos/test_flood.py::test_a_stranger_who_has_an_agents_pid_is_never_signalled",
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
        "a stop that has begun is finished after the agent host re-executes itself",
        "unit/test_host_code.py::test_a_stop_that_is_under_way_is_brought_to_its_end",
        replace("stop-handover", "self._stops.get(process.agent_id)", "None"),
    ),
    guard(
        "lines are shipped at a bounded rate",
        "unit/test_log_shipper.py::test_a_second_of_flood_is_a_second_of_lines",
        remove("ship-rate"),
    ),
    guard(
        "a shipped line is one line wherever it is shown",
        "unit/test_log_shipper.py::test_rubbish_is_text_of_one_line_each",
        replace("shipped-line", "_CONTROL.sub(", 're.sub("-x-", '),
    ),
    guard(
        "the status page escapes HTML in texts",
        "e2e/test_status_page.py::test_the_status_page",
        replace("page-text", 'oneLine(String(value ?? ""))', 'String(value ?? "")'),
        STEP="controls_and_directions_of_strangers_are_written_out",
    ),
    guard(
        "the log of an agent is the admin's",
        "integration/test_agent_logs.py::test_only_the_admin_reads_it",
        replace("agent-log-for-admin", "route_class=gated(administrator), ", ""),
    ),
    guard(
        "a failure is listed as long as its record and log are kept",
        "integration/test_agent_logs.py::test_a_log_is_kept_as_long_as_its_failure_is_listed",
        remove("failures-kept"),
    ),
    guard(
        "the cgroup's memory counts",
        "unit/test_memory.py::test_a_limit_further_up_counts",
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
        "unit/test_supervise.py::test_the_host_hears_another_signal_when_it_is_stopped_with_its_node",
        remove("stopping-event"),
    ),
    guard(
        "a stop signal between fork and exec is not lost",
        "unit/test_supervise.py::test_a_program_that_is_just_being_started_hears_the_signal",
        remove("signal-after-fork"),
    ),
    guard(
        "programs end when their supervisor is killed",
        "unit/test_supervise.py::test_its_programs_go_with_it_when_it_is_killed",
        remove("parent-death"),
    ),
    guard(
        "orphans are killed when the node ends",
        "unit/test_supervise.py::test_no_orphan_is_left_at_its_end",
        remove("kill-orphans"),
    ),
    guard(
        "a path is one word to the programs, whatever characters it has",
        "unit/test_paths.py::test_a_node_lives_in_a_folder_of_any_name",
        replace("quoted-path", 'shlex.quote(value) if option == "command" else ', ""),
    ),
    guard(
        "an error of supervisord shows no value of the environment",
        "unit/test_paths.py::test_an_error_of_supervisord_shows_no_value_of_the_environment",
        replace("supervisord-error", "ValueError", "KeyError"),
    ),
    guard(
        "a terminal that is closed stops the node",
        "unit/test_terminal.py::test_a_terminal_that_is_closed_stops_the_node",
        remove("hangup-stops"),
    ),
    guard(
        "a SIGHUP without a terminal is ignored",
        "unit/test_terminal.py::test_without_a_terminal_a_hangup_is_nothing",
        replace("hangup-without-terminal", " or not self.hangup_stops", ""),
    ),
    guard(
        "a terminal that is closed cuts no drain short",
        "unit/test_terminal.py::test_a_terminal_that_is_closed_cuts_no_drain_short",
        never("hangup-while-draining"),
    ),
    guard(
        "a terminal that accepts no output delays nothing",
        "unit/test_terminal.py::test_a_terminal_that_takes_nothing_holds_up_nothing",
        remove("patient-terminal"),
    ),
    guard(
        "a second signal skips the drain",
        "unit/test_supervise.py::test_a_second_signal_does_not_wait_for_the_calls[15]",
        remove("second-signal"),
    ),
    guard(
        "the node warns when its drain does not fit into the kill window",
        "unit/test_kill_window.py::test_a_window_that_is_too_short_is_named_with_the_numbers_and_the_mend",
        always("kill-window"),
    ),
    guard(
        "the api answers many clients while Redis is a black hole",
        "integration/test_api.py::test_a_black_hole_for_a_redis_is_503_in_two_seconds",
        replace("redis-patience", "PATIENCE = 0.9", "PATIENCE = 3.0"),
    ),
    guard(
        "an Idempotency-Key stands for one start",
        "integration/test_api.py::test_fifty_requests_with_one_key_are_one_start",
        never("idempotency-key"),
    ),
    guard(
        "the room of a session that is over is deleted",
        "integration/test_store.py::test_the_room_of_a_session_that_is_over_is_deleted_until_that_has_worked",
        remove("close-room"),
    ),
    guard(
        "time in which no process could check the deadlines does not count",
        "integration/test_store.py::test_time_in_which_nobody_could_look_does_not_count",
        never("blind-time"),
    ),
    guard(
        "an agent that was dead when it was handed out does not count as a failure",
        "integration/test_store.py::test_who_was_dead_when_it_was_handed_out_has_failed_nobody",
        replace("dead-at-assignment", "unread and FOUND_DEAD or ", ""),
    ),
    guard(
        "a drain waits for rooms that are to be deleted",
        "integration/test_api.py::test_a_node_drains",
        remove("drain-waits-for-rooms"),
    ),
    guard(
        "living agents register before starts are answered",
        "integration/test_store.py::test_the_living_register_before_starts_are_answered",
        replace("living-first", "redis.call('EXISTS', 'policy', 'pool:target') < 2", "not policy('max_sessions')"),
    ),
    guard(
        "an agent's own heartbeat decides whether it lives",
        "integration/test_refill.py::test_an_agent_that_is_heard_lives_whatever_is_known_of_its_node",
        replace(
            "heartbeat-decides",
            "ended, next_suspects",
            "for agent in await store.agents():\n        await store.record_exit(agent.id, 'gone')\n    ended, next_suspects",
        ),
    ),
    guard(
        "a beat that begins asks for a refill",
        "integration/test_beat.py::test_a_beat_that_begins_asks_for_a_refill_at_once",
        never("refill-at-start"),
    ),
    guard(
        "a schedule that Redis has lost is written again",
        "integration/test_beat.py::test_a_schedule_that_redis_has_lost_is_written_again",
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
        "integration/test_webhook.py::test_what_is_not_signed_by_us_is_refused[a scheme]",
        replace("webhook-scheme", "authorization", "authorization.split()[-1]"),
    ),
    guard(
        "no client is redirected to the Host that it sends",
        "integration/test_slashes.py::test_no_route_redirects",
        replace("no-redirect", "redirect_slashes=False", "redirect_slashes=True"),
    ),
    guard(
        "a path behind a proxy counts, taken off or passed on",
        "integration/test_root_path.py::test_every_page_finds_its_files[passed on-status-5]",
        remove("path-below"),
    ),
    guard(
        "the page knows its path without the slash at its end",
        "integration/test_root_path.py::test_the_bare_path_is_the_page_too_and_nobody_is_redirected[stripped]",
        replace("page-base", '.replace("<head>", f\'<head>\\n    <base href="{root}/" />\', 1)', ""),
    ),
    guard(
        "no path of ours can be taken for one behind a proxy's",
        "unit/test_settings.py::test_a_bad_value_is_named[ROOT_PATH-/api-the api itself has /api/agents: take another path]",
        replace("own-paths", "in OWN", "in ()"),
    ),
    guard(
        "the documentation may load nothing foreign",
        "unit/test_docs_page.py::test_the_page_and_its_files_are_ours_and_may_load_nothing_else",
        replace("docs-headers", ", headers=_HEADERS", ""),
    ),
    guard(
        "a webhook has a size of its own",
        "integration/test_webhook.py::test_the_size_of_a_body",
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
        "chaos/test_untold.py::test_a_call_goes_its_way_though_nobody_tells",
        replace("next-reconciliation", "set_deadline_if_none('reconcile', ''", "local _ = math.max(0, 0"),
    ),
    guard(
        "only rooms that we name are deleted",
        "integration/test_webhook.py::test_rooms_of_others_are_not_even_asked_about",
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
        "e2e/test_nodes.py::test_three_nodes_share_the_work_and_a_call_outlives_its_node",
        returns("heartbeat-timeout"),
        STEP="one_that_vanishes_is_replaced_by_the_others",
    ),
    guard(
        "a container that stops hands its calls over to the one that stays",
        "e2e/test_deploy.py::test_a_call_lives_through_a_deploy_and_the_pool_is_never_empty",
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
        "integration/test_store.py::test_an_agent_whose_record_is_lost_leaves_the_lists_of_its_node",
        never("recount"),
    ),
    guard(
        "a node boots its own share",
        "integration/test_nodes.py::test_each_node_boots_its_share",
        replace("own-share", "math.max(own, missing_agents(nodes) - others)", "missing_agents(nodes)"),
    ),
    guard(
        "nodes that are held back do not wake each other",
        "integration/test_nodes.py::test_nodes_that_are_held_back_do_not_wake_each_other",
        never("held-back"),
    ),
    guard(
        "a node whose agents do not boot is left alone",
        "integration/test_nodes.py::test_a_node_whose_agents_do_not_boot_is_left_alone",
        replace("sound-nodes", "#sound > 0 and sound or ", ""),
    ),
    guard(
        "a call is handed over only where it fits",
        "integration/test_nodes.py::test_a_call_is_not_handed_over_to_where_no_room_is",
        replace("handover-capacity", "can_serve_one_more", "any_node_in_service"),
    ),
    guard(
        "a full node serves nobody with what it has booted",
        "integration/test_nodes.py::test_what_is_booted_on_a_full_node_joins_the_pool",
        replace("full-node-boots", "and may_serve_on(node) ", ""),
    ),
    guard(
        "a node that is late is asked last",
        "integration/test_nodes.py::test_a_node_that_is_late_is_asked_last",
        replace("late-node", "node.late and 4 or", ""),
    ),
    guard(
        "a node has no more calls than it has room for",
        "integration/test_nodes.py::test_warm_agents_of_a_full_node_are_not_handed_out",
        replace("node-capacity", "not node.max or (load or load_of(node)) < 1", "true"),
    ),
    guard(
        "a miss is booted where there is most room",
        "integration/test_nodes.py::test_a_miss_is_booted_where_there_is_most_room",
        never("boot-elsewhere"),
    ),
    guard(
        "a release leaves data that it does not understand alone",
        "integration/test_nodes.py::test_a_redis_of_another_release_is_left_alone",
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
        "unit/test_pipeline.py::test_each_failed_turn_is_apologised_for_and_the_fourth_in_a_row_hands_over",
        replace("apologies", "_spoken_to = False", "_spoken_to, self._failures = False, 0"),
    ),
    guard(
        "a provider's refusal ends the call at once",
        "unit/test_pipeline.py::test_a_refusal_ends_the_call_at_once",
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
        "integration/test_incoming.py::test_a_caller_who_sends_more_than_an_agent_takes_ends_the_call",
        remove("caller-traffic"),
    ),
    guard(
        "one stream of a caller has a largest size",
        "integration/test_incoming.py::test_a_stream_that_unpacks_into_more_is_cut_and_a_chat_goes_on",
        replace("stream-bytes", "rtc.DataStreamOptions(max_payload_byte_length=STREAM_BYTES)", "None"),
    ),
    guard(
        "an agent that is silent but lives counts as one that has stopped serving",
        "integration/test_alerts.py::test_calls_whose_agents_are_silent_and_live_count_too",
        replace("silent-fails", "count_failing_call(session, cause, true) ", ""),
    ),
    guard(
        "a warm agent that reads no messages leaves the pool",
        "unit/test_runtime.py::test_a_warm_agent_that_beats_and_does_not_hear_goes",
        never("deaf-agent"),
    ),
    guard(
        "an agent whose event loop is blocked is silent",
        "e2e/test_sessions.py::test_sessions_from_their_start_to_their_end",
        returns("heartbeat-timeout"),
        STEP="agents_that_serve_no_more_are_replaced_and_heard_again",
    ),
    guard(
        "connections follow a failover",
        "integration/test_failover.py::test_every_connection_of_the_store_moves",
        remove("moved-connection"),
    ),
    guard(
        "a cancellation ends a command whenever it comes",
        "integration/test_connection.py::test_a_cancellation_ends_a_command_whenever_it_comes",
        never("cancelled-while-sending"),
    ),
    guard(
        "Celery's connections follow a failover",
        "integration/test_failover.py::test_beat_moves",
        remove("moved-celery-connection"),
    ),
    guard(
        "a node follows a failover though the old server lives",
        "chaos/test_redis_black_hole.py::test_a_failover_is_followed_though_the_old_server_lives",
        replace("failover-codes", 'frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})', "frozenset()"),
    ),
    guard(
        "something else that answers is not LiveKit",
        "unit/test_livekit_refusals.py::test_the_operator_reads_livekits_own_words[200-<html>sign in</html>-0-expected10]",
        never("not-livekit"),
    ),
    guard(
        "the node's loops survive any exception",
        "unit/test_loops.py::test_a_loop_of_the_node[heartbeat]",
        replace("loop-survives", "Exception", "StoreUnavailable"),
    ),
    guard(
        "the change feed survives any failure",
        "unit/test_loops.py::test_the_feed",
        replace("feed-survives", "Exception", "StoreUnavailable"),
    ),
    guard(
        "each call whose agent lives but has stopped serving is counted once",
        "integration/test_alerts.py::test_calls_whose_agents_live_and_serve_no_more_are_told_until_one_is_answered",
        replace(
            "failing-once",
            "if redis.call('HSETNX', 'session:' .. session, 'failing', 1) == 0 then return end",
            "redis.call('HSET', 'session:' .. session, 'failing', 1)",
        ),
    ),
    guard(
        "a task of another program is returned to the queue",
        "integration/test_neighbours.py::test_every_task_of_a_neighbour_is_done_by_the_neighbour",
        remove("foreign-task"),
    ),
    guard(
        "a task that another program holds is not returned to the queue",
        "integration/test_neighbours.py::test_what_the_neighbour_holds_is_not_given_back_by_us",
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
        "integration/test_clients.py::test_tls_is_checked_by_every_kind_alike",
        replace("tls-verify", '"required" if self.verify else "none"', '"none"'),
        replace("tls-hostname", '"ssl_check_hostname": self.verify', '"ssl_check_hostname": False'),
    ),
    guard(
        "the embedded Valkey asks for a password",
        "integration/test_clients.py::test_the_embedded_valkey_lets_nobody_in_without_its_password",
        replace("valkey-password", "requirepass {password}\n", ""),
    ),
    guard(
        "everything that is installed into the image has a known hash",
        "unit/test_pins.py::test_the_image_installs_nothing_without_a_hash",
        replace("image-hashes", "--require-hashes ", ""),
    ),
    guard(
        "every key is tried with the rights of Redis's user",
        "integration/test_clients.py::test_every_key_of_the_docs_is_tried",
        replace("key-rights", " address:sessions:x room:asker:x", ""),
    ),
)
