"""Every guard: what makes something true, how it is taken away, and the test that fails then."""

from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Change:
    """A text of a file that is replaced, at its one place."""

    file: str
    old: str
    new: str

    def make(self, root: Path) -> None:
        """Change the file below `root`. Raises `ValueError` where the text is not there once."""
        path = root / self.file
        text = path.read_text()
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.file} has {count} times: {self.old}")
        path.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True)
class Guard:
    """What makes something true, how it is taken away, and the test that fails then (a pytest node id)."""

    name: str
    test: str
    changes: tuple[Change, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def row(self) -> str:
        """Its line in docs/testing.md."""
        files = ", ".join(dict.fromkeys(f"`{change.file.removeprefix('orchestrator/')}`" for change in self.changes))
        file, _, name = self.test.removeprefix("tests/").partition("::")
        function, bracket, case = name.partition("[")
        step = self.environment.get("STEP", "").replace("_", " ")
        return f"| {self.name} | {files} | `{file}` {step or function.removeprefix('test_').replace('_', ' ')}{bracket and ' ['}{case} |"


def guard(name: str, test: str, *changes: tuple[str, str, str], **environment: str) -> Guard:
    """Return a guard; each change is (file, old, new)."""
    return Guard(name, f"tests/{test}", tuple(Change(*change) for change in changes), environment)


HOST, CHILDREN = "orchestrator/host/host.py", "orchestrator/host/children.py"
WORKER, RUNTIME, SERVED = "orchestrator/worker", "agents/runtime.py", "agents/served_session.py"
PROCESSES = f"{WORKER}/processes.py"
PROCESS, FOLDER, PRELOAD = (
    "orchestrator/machine/process.py",
    "orchestrator/host/state_dir.py",
    "orchestrator/host/preload.py",
)
LUA = "orchestrator/store/lua"
LIB, DUE, ASSIGN = f"{LUA}/lib", f"{LUA}/process_deadlines.lua", f"{LUA}/assign.lua"
ACCESS, PROGRAMS = "orchestrator/api/access.py", "orchestrator/node/programs.py"
PRIVATE = "orchestrator/machine/private.py"
ROOMS, CONF, SHIPPER = "orchestrator/livekit/rooms.py", "supervisord.conf", "orchestrator/worker/log_shipper.py"
NO_WAIT_FOR_OTHERS = (
    f"{WORKER}/set_up.py",
    "max(0.0, began + heartbeat - self._clock.monotonic())",
    "0",
)
UNKNOWN_EXITED = (
    PROCESSES,
    "                await self._store.record_exit(agent.id, cause)\n",
    "                pass\n",
)
PROMOTE = (
    f"{LIB}/closing.lua",
    "  close_session(id, to, reason)\n  admit_from_queue()\n",
    "  close_session(id, to, reason)\n",
)
NO_DEATHS = (HOST, '"deaths": [encode(death) for death in self._children.deaths.values()],', '"deaths": [],')
NO_CHECK = (f"{WORKER}/checks.py", "            if finding.fault is not None:\n", "            if False:\n")
NO_SILENCE = (DUE, "function on_timeout.beat(id)\n", "function on_timeout.beat(id)\n  if true then return end\n")
NO_HANDOVER = (DUE, "fields[1] == node and policy('takeover') ~= 0 and can_serve_one_more() then", "false then")
NO_RECORD = (
    "orchestrator/host/spawn.py", "        _record_self(agent_id, folder)\n        signal.set_wakeup_fd(-1)",
    "        signal.set_wakeup_fd(-1)",
)  # fmt: skip

REFUSALS = "orchestrator/store/refusals.py"
GUARDS = (
    # Deadlines, assignment, the line
    guard(
        "credentials are looked at before bodies",
        "integration/test_gate.py::test_credentials_are_looked_at_before_a_byte_of_the_body",
        (
            "orchestrator/api/gate.py",
            "            caller = request.state.caller = await check(request)\n",
            "            await request.body()\n            caller = request.state.caller = await check(request)\n",
        ),
    ),
    guard(
        "a body's depth is bounded before anything recurses",
        "integration/test_gate.py::test_depth_is_refused_before_anything_recurses",
        (
            "orchestrator/api/gate.py",
            "                    bound(await _body(request))\n",
            "                    await _body(request)\n",
        ),
    ),
    guard(
        "few errors are told",
        "integration/test_gate.py::test_errors_are_few_and_short",
        ("orchestrator/api/problems.py", "for row in rows[:ERRORS]]", "for row in rows]"),
    ),
    guard(
        "no header forges a key of ours",
        "integration/test_gate.py::test_no_header_forges_a_key_of_ours",
        (
            "orchestrator/api/gate.py",
            '    return hashlib.sha256(f"{scope}\\n{key}".encode()).hexdigest()\n',
            "    return key\n",
        ),
    ),
    guard(
        "a header is bounded in bytes",
        "unit/test_protocol.py::test_what_is_too_large_is_refused_before_it_is_kept",
        ("orchestrator/api/protocol.py", "        elif self._came > HEADER_BYTES:\n", "        elif False:\n"),
    ),
    guard(
        "a request is bounded in seconds",
        "unit/test_protocol.py::test_who_never_comes_to_an_end_is_cut_off",
        ("orchestrator/api/protocol.py", "        elif now > self._due:\n", "        elif False:\n"),
    ),
    guard(
        "connections are bounded in all",
        "unit/test_protocol.py::test_the_silent_make_room_for_who_asks",
        ("orchestrator/api/connections.py", "        if len(self._everyone) >= self._most:\n", "        if False:\n"),
    ),
    guard(
        "connections of one address are bounded",
        "unit/test_protocol.py::test_one_address_has_so_many_connections_and_a_proxy_any_number",
        (
            "orchestrator/api/connections.py",
            "        if len(mine) >= self._per_address > 0 and",
            "        if False and",
        ),
    ),
    guard(
        "a port listens before the app is loaded",
        "unit/test_sockets.py::test_it_listens_before_the_app_is_loaded",
        ("orchestrator/api/sockets.py", "        sock.listen(BACKLOG)\n", ""),
    ),
    guard(
        "a full Redis takes no new work",
        "integration/test_refusing_redis.py::test_a_full_redis_takes_no_new_work_though_a_warm_agent_is_there",
        (ASSIGN, "require_redis_memory()\n", ""),
    ),
    guard(
        "the cap is looked at where the agent is taken",
        "chaos/test_capacity.py::test_the_cap_holds_at_every_moment_of_a_rush",
        (f"{LIB}/admission.lua", "if served_sessions() >= max_sessions() then return", "if false then return"),
    ),
    guard(
        "the end of a session and the next one's turn are one step",
        "chaos/test_capacity.py::test_the_line_is_first_come_first_served_and_moves_at_once",
        PROMOTE,
    ),
    guard(
        "who comes while others wait joins the line, room or not",
        "chaos/test_capacity.py::test_whoever_comes_later_stands_behind_even_when_a_place_is_free",
        (f"{LIB}/admission.lua", "if redis.call('ZCARD', 'session:queued') > 0 then return", "if false then return"),
        PROMOTE,
    ),
    guard(
        "a wait in line ends",
        "chaos/test_capacity.py::test_a_place_in_line_is_given_up_in_time_and_by_its_user",
        (DUE, "  if session_state(id) == 'queued' then\n", "  if false then\n"),
    ),
    guard(
        "a wait is estimated from how long sessions were",
        "chaos/test_capacity.py::test_the_line_is_told_how_long_it_takes_once_that_is_known",
        (
            "orchestrator/pool/assignment.py",
            "session * position / await self._max_sessions()",
            "position / self._settings.max_sessions",
        ),
    ),
    guard(
        "the sessions of a user are counted",
        "chaos/test_capacity.py::test_one_user_never_has_more_than_their_share",
        (ASSIGN, "if held >= policy('sessions_per_user') then", "if false then"),
    ),
    guard(
        "the last look at the process before it is handed out",
        "chaos/test_capacity.py::test_a_killed_warm_agent_is_never_handed_out",
        (PROCESS, "    if node != here or not pid:\n", "    if True:\n"),
    ),
    guard(
        "shrinking takes from the pool only",
        "chaos/test_capacity.py::test_a_storm_of_starts_while_the_pool_is_resized",
        (
            f"{LUA}/retire_surplus.lua",
            "redis.call('SINTER', 'pool:ready', 'pool:stale')[1] or agent_above_share(want)",
            "redis.call('SRANDMEMBER', 'agents')",
        ),
    ),
    guard(
        "starts are counted by the peer's address",
        "chaos/test_capacity.py::test_a_flood_from_one_address_leaves_the_others_alone",
        (
            "orchestrator/api/addresses.py",
            'peer = request.client.host if request.client else ""',
            'peer = request.headers.get("x-real-ip", "")',
        ),
    ),
    guard(
        "no agent is started while memory is low",
        "chaos/test_capacity.py::test_no_agent_is_started_without_memory_and_the_reason_is_told",
        (f"{WORKER}/headroom.py", "if not floor or free is None or free >= floor << 20:", "if True:"),
    ),
    guard(
        "who is not warm any more is out of the pool",
        "integration/test_model.py::test_the_promises_hold_whatever_happens",
        (f"{LIB}/lists.lua", "else redis.call('SREM', set, id) end\n", "else redis.call('EXISTS', set) end\n"),
        HYPOTHESIS_PROFILE="guard",
    ),
    guard(
        "a silent agent is not handed out",
        "integration/test_model.py::test_the_promises_hold_whatever_happens",
        (
            f"{LIB}/take_warm.lua",
            "if fields[1] == 'ready' and silence <=",
            "if fields[1] == 'ready' and 0 * silence <=",
        ),
        HYPOTHESIS_PROFILE="guard",
    ),
    guard(
        "every wait has its deadline",
        "integration/test_model.py::test_the_promises_hold_whatever_happens",
        (f"{LIB}/enter.lua", "      set(deadline.kind, id, ms)\n", ""),
        HYPOTHESIS_PROFILE="guard",
    ),
    guard(
        "a session has one agent at a time",
        "integration/test_model.py::test_the_promises_hold_whatever_happens",
        (f"{LIB}/takeover.lua", "  if fields[1] ~= agent or (fields[2]", "  if (fields[2]"),
        HYPOTHESIS_PROFILE="guard",
    ),
    guard(
        "a place that is free is the line's",
        "integration/test_model.py::test_the_promises_hold_whatever_happens",
        PROMOTE,
        HYPOTHESIS_PROFILE="guard",
    ),
    guard(
        "the pool's target follows what arrives",
        "chaos/test_capacity.py::test_the_pool_grows_with_what_arrives_and_says_why",
        (f"{LUA}/assign.lua", "redis.call('INCR', bucket)", "redis.call('SET', bucket, 0)"),
    ),
    # Users
    guard(
        "who lost the connection is waited for less long",
        "chaos/test_users.py::test_a_client_that_dies_frees_its_agent_within_thirty_seconds",
        (f"{LIB}/presence.lua", "(lost and 4 or 1)", "1"),
    ),
    guard(
        "a user has one identity in the room, from whatever tab",
        "chaos/test_users.py::test_a_second_tab_goes_on_with_the_call",
        (
            "orchestrator/api/token.py",
            "    identity = user_identity(room)\n",
            '    identity = new_id("user")\n',
        ),
    ),
    guard(
        "a client secret is good for its own session alone",
        "integration/test_access.py::test_a_client_secret_is_good_for_its_own_session_alone",
        (
            ACCESS,
            "        return hmac.compare_digest(_digest(secret), _digest(self.client_secret(session_id)))\n",
            "        return True\n",
        ),
    ),
    guard(
        "a client secret ends a little after its session",
        "integration/test_access.py::test_a_client_secret_is_good_until_a_little_after_the_end",
        (
            "orchestrator/api/dependencies.py",
            "    if ended is not None and await services.store.now() > ended",
            "    if False and await services.store.now() > ended",
        ),
    ),
    guard(
        "an api that is open is open to this machine alone",
        "integration/test_access.py::test_open_means_this_machine_alone",
        (
            ACCESS,
            "        if not (self._loopback_only or self._hosts):\n",
            "        if True:\n",
        ),
    ),
    guard(
        "what looks like a client secret opens no route that is not its session's",
        "integration/test_strangers.py::test_what_looks_like_a_client_secret_opens_nothing_on_any_route",
        (
            "orchestrator/api/health.py",
            "    caller = services.access.starter(request)\n",
            "    caller = services.access.caller(request)\n",
        ),
    ),
    guard(
        "what an error is caused by is told to the operator alone",
        "integration/test_operators_words.py::test_a_boot_error_is_the_operators",
        (
            "orchestrator/api/problems.py",
            "detail if _is_operator(request) else caller_words.problem(failure.code)",
            "detail",
        ),
    ),
    guard(
        "an error that nobody expected tells callers nothing of itself",
        "integration/test_operators_words.py::test_an_unexpected_error_is_the_operators",
        (
            "orchestrator/api/problems.py",
            'detail if _is_operator(request) else caller_words.problem("internal_error")',
            "detail",
        ),
    ),
    guard(
        "where no credentials are needed, secrets cannot be guessed either",
        "integration/test_operators_words.py::test_a_route_without_credentials_is_no_place_to_guess_the_token",
        (ACCESS, "        if secret and not secret.startswith(_SECRET_PREFIX):\n", "        if False:\n"),
    ),
    guard(
        "of reasons and causes callers read the code",
        "unit/test_caller_words.py::test_a_reason_is_told_by_its_code",
        (
            "orchestrator/api/caller_words.py",
            '    if kind in REASONS:\n        return f"{kind}: {REASONS[kind]}"\n',
            "    if kind in REASONS:\n        return text\n",
        ),
    ),
    guard(
        "a session is told to callers in fixed words",
        "integration/test_operators_words.py::test_of_an_agent_that_fails_callers_get_the_code",
        (
            "orchestrator/api/sessions.py",
            "    if caller.role is not Role.ADMIN:\n        return caller_view.session(reply)\n",
            "",
        ),
    ),
    guard(
        "what happens to a session is told to callers in fixed words too",
        "integration/test_operators_words.py::test_the_stream_of_events_tells_a_caller_no_more",
        (
            "orchestrator/api/events.py",
            "view = dict if caller.role is Role.ADMIN else caller_view.event",
            "view = dict",
        ),
    ),
    guard(
        "health tells callers that something is wrong, not why",
        "integration/test_operators_words.py::test_a_boot_error_is_the_operators",
        ("orchestrator/api/health.py", "reply if caller.role is Role.ADMIN else caller_view.health(reply)", "reply"),
    ),
    guard(
        "logs are the operator's",
        "integration/test_operators_words.py::test_of_an_agent_that_fails_callers_get_the_code",
        ("orchestrator/api/sessions.py", "    if caller.role is not Role.ADMIN:\n        raise Forbidden\n", ""),
    ),
    guard(
        "a session's reason says who stopped it",
        "integration/test_operators_words.py::test_who_ended_a_session_is_told",
        (
            "orchestrator/api/sessions.py",
            "SessionState.ENDED, _STOPPED[caller.role])",
            'SessionState.ENDED, "stopped by request")',
        ),
    ),
    guard(
        "an open api gives a live session to nobody but who began it",
        "integration/test_strangers.py::test_an_open_api_gives_a_live_session_to_nobody_but_who_began_it",
        ("orchestrator/api/sessions.py", "    if started.existing:  # and", "    if False:  # and"),
    ),
    guard(
        "no caller names a user for whom a room stands",
        "integration/test_strangers.py::test_no_caller_names_a_user_for_whom_a_room_stands",
        ("orchestrator/api/schemas/sessions.py", "    if re.match(JOB_USERS, user_id):\n", "    if False:\n"),
    ),
    guard(
        "one address takes few seats",
        "integration/test_strangers.py::test_one_address_takes_few_seats_and_few_places_in_line",
        (f"{LUA}/assign.lua", "if per_address > 0 and live >= per_address * each[2]", "if false"),
    ),
    guard(
        "a network of IPv6 is a few addresses",
        "integration/test_strangers.py::test_a_network_of_ipv6_is_a_few_addresses_and_no_more",
        (
            f"{LUA}/assign.lua",
            "then counted[2] = {network, NETWORK_SHARE} end",
            "then counted[2] = nil end",
        ),
    ),
    guard(
        "who sits in a room that nobody serves is not left there",
        "integration/test_strangers.py::test_who_sits_in_a_room_that_nobody_serves_is_not_left_there",
        ("orchestrator/worker/reconciler.py", "await self._rooms.delete(room)\n        except", "pass\n        except"),
    ),
    guard(
        "wrong secrets are tried only so often",
        "integration/test_strangers.py::test_wrong_secrets_are_tried_only_so_often",
        ("orchestrator/api/attempts.py", "seen.wrong >= MOST", "False"),
    ),
    guard(
        "whoever asks chooses no room",
        "integration/test_token.py::test_no_request_yields_a_token_for_more",
        (
            "orchestrator/api/token.py",
            '    if body.room_name not in {None, "", room}:\n',
            "    room = body.room_name or room\n    if False:\n",
        ),
    ),
    guard(
        "LiveKit's own attributes are refused",
        "integration/test_token.py::test_what_a_client_may_not_choose_is_refused",
        ("orchestrator/api/token.py", 'if name.lower().startswith("lk."))', 'if name.startswith("LK."))'),
    ),
    guard(
        "no agent is given what is not for agents",
        "e2e/test_access.py::test_operators_have_what_they_need_and_strangers_get_nothing",
        ("orchestrator/host/host.py", "        forget_the_rest(settings)\n", ""),
        (PROGRAMS, "    names = set(NEEDS[program])\n", "    names = set(environment)\n"),
        STEP="secrets_are_where_they_are_needed_and_nowhere_else",
    ),
    guard(
        "Compose has no secret that everybody knows",
        "unit/test_shipped_secrets.py::test_no_shipped_file_has_a_secret_that_everybody_knows",
        ("docker-compose.celery.yml", "${LIVEKIT_API_SECRET:-}", "${LIVEKIT_API_SECRET:-for-trying}"),
    ),
    guard(
        "callers that cannot reach LiveKit are told of",
        "integration/test_access.py::test_health_tells_of_callers_that_cannot_reach_livekit",
        ("orchestrator/api/health.py", "    yield from reach.troubles(services.settings, os.environ)\n", ""),
    ),
    guard(
        "secrets that somebody else could have written are not read",
        "unit/test_private.py::test_secrets_that_may_be_somebody_elses_are_nobodys_word",
        (PRIVATE, "    _check_owner(path, status)\n    if not stat.S_ISREG", "    if not stat.S_ISREG"),
        (PRIVATE, "        _check_owner(path, status)\n        if status.st_mode & 0o077:\n", "        if False:\n"),
    ),
    guard(
        "a folder that somebody else could have filled is no node's",
        "unit/test_private.py::test_up_refuses_it_before_anything_is_written",
        ("orchestrator/node/preflight.py", "        private.check_folder(settings.run_dir)\n", ""),
    ),
    guard(
        "each program of a node has its own secrets and no other",
        "e2e/test_access.py::test_operators_have_what_they_need_and_strangers_get_nothing",
        (PROGRAMS, "    names = set(NEEDS[program])\n", "    names = set(environment)\n"),
        STEP="each_program_was_started_with_its_own_secrets_and_no_other",
    ),
    guard(
        "supervisord's environment has no secret",
        "unit/test_programs.py::test_supervisords_environment_has_none_and_each_program_gets_its_own",
        (PROGRAMS, "    return shared(environment) | {HANDED:", "    return dict(environment) | {HANDED:"),
    ),
    guard(
        "a program of a node reads no .env",
        "unit/test_programs.py::test_a_program_of_a_node_reads_no_dot_env",
        ("orchestrator/config/load.py", "            return kind(_env_file=None)\n", "            return kind()\n"),
    ),
    guard(
        "an api that was given no keys opens to nobody by mistake",
        "unit/test_programs.py::test_programs_without_the_keys_start_and_the_api_does_not",
        ("orchestrator/api/lifecycle.py", "    if settings.access_trouble:\n", "    if False:\n"),
    ),
    guard(
        "no other process of its user reads a sealed one",
        "unit/test_sealed.py::test_others_of_its_user_read_neither_its_environment_nor_its_memory",
        (
            "orchestrator/machine/sealed.py",
            "        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)\n",
            "        pass\n",
        ),
    ),
    guard(
        "what the node's programs leave undone is seen though they are sealed",
        "integration/test_invariants.py::test_a_zombie_of_a_sealed_program",
        ("orchestrator/operations/census.py", "settings.node_id if process.pid in supervised else", '"" if False else'),
    ),
    guard(
        "an api that stops ends its streams",
        "e2e/test_access.py::test_operators_have_what_they_need_and_strangers_get_nothing",
        (
            "orchestrator/api/lifecycle.py",
            "            with _on_stop_signal(feed.close):\n",
            "            with contextlib.nullcontext():\n",
        ),
        STEP="a_stop_with_open_streams_waits_for_none",
    ),
    guard(
        "rooms are kept as long as we wait",
        "chaos/test_users.py::test_who_leaves_may_come_back_for_as_long_as_is_set",
        ("orchestrator/livekit/tokens.py", "        config.MergeFrom(self._room)\n", ""),
    ),
    # Takeover
    guard(
        "a death is told at once",
        "e2e/test_sessions.py::test_sessions_from_their_start_to_their_end",
        (CHILDREN, "        self._on_death(death)\n", "        pass\n"),
        STEP="a_killed_agent_is_replaced_and_heard_again",
    ),
    guard(
        "an agent that is silent is given up",
        "e2e/test_sessions.py::test_sessions_from_their_start_to_their_end",
        NO_SILENCE,
        STEP="agents_that_serve_no_more_are_replaced_and_heard_again",
    ),
    guard(
        "takeovers have an end",
        "e2e/test_sessions.py::test_sessions_from_their_start_to_their_end",
        (f"{LIB}/takeover.lua", "  elseif count > max then\n", "  elseif false then\n"),
        STEP="the_third_death_ends_the_call_with_the_last_cause",
    ),
    guard(
        "the conversation is handed over",
        "e2e/test_voice.py::test_people_talk_with_agents",
        (f"{LIB}/inbox.lua", "table.concat(turns, ',')", "''"),
        STEP="the_next_voice_knows_the_users_name_and_what_was_said",
    ),
    # Survival
    guard(
        "the next host finds the agents of the one before",
        "chaos/test_survival.py::test_a_call_does_not_notice_that_a_program_is_killed[host]",
        (CHILDREN, "                self._adopt(record)\n", "                pass\n"),
    ),
    guard(
        "who restarts the host alone ends no call",
        "chaos/test_survival.py::test_a_call_does_not_notice_that_programs_are_restarted",
        (CONF, "stopsignal=HUP\n", ""),
    ),
    guard(
        "a Celery worker that connects hears what lives",
        "chaos/test_survival.py::test_calls_outlive_many_celery_workers",
        (PROCESSES, "known = {process.agent_id for process in living} |", "known = "),
    ),
    guard(
        "a Redis that is away is said so, as a problem",
        "chaos/test_survival.py::test_calls_outlive_a_crash_of_redis_that_lasts",
        (REFUSALS, "if isinstance(failure, RedisConnectionError) and not _code(failure, told):", "if False:"),
        (REFUSALS, "isinstance(failure, RedisConnectionError | RedisTimeoutError | InvalidResponse)", "False"),
    ),
    guard(
        "what Redis refuses for the state it is in is a wait",
        "unit/test_refusals.py::test_the_servers_state_is_a_wait",
        (REFUSALS, "return code not in _MISTAKES and not (", "return False and not ("),
    ),
    guard(
        "beat waits for Redis in its process",
        "chaos/test_redis_refuses.py::test_no_program_gives_up_on_a_redis_that_does_not_serve[gone]",
        ("orchestrator/worker/beat.py", "            self._say(cause)\n", "            raise\n"),
    ),
    guard(
        "what has run is started again without end",
        "unit/test_supervise.py::test_what_has_run_is_started_again_without_end",
        (
            "orchestrator/node/supervisor.py",
            "process.backoff = min(process.backoff, LONGEST_PAUSE, process.config.startretries)",
            "pass",
        ),
    ),
    guard(
        "a full disk does not end the agent host",
        "unit/test_full_disk.py::test_the_host_tells_who_died_and_refuses_with_the_cause",
        (
            CHILDREN,
            "        except OSError as failure:\n            # Reported all the same.",
            "        except KeyError as failure:\n            # Reported all the same.",
        ),
    ),
    guard(
        "who lives registers again",
        "chaos/test_survival.py::test_calls_outlive_the_loss_of_all_records[flush]",
        (RUNTIME, "                    state = await self._register()\n", '                    state = "unknown"\n'),
    ),
    guard(
        "starts wait until the living have registered",
        "chaos/test_survival.py::test_calls_outlive_the_loss_of_all_records[flush]",
        (f"{WORKER}/set_up.py", "and not await self._all_registered():", "and False:"),
        NO_WAIT_FOR_OTHERS,
    ),
    guard(
        "starts wait until the living of other nodes have registered",
        "simulation/test_loss.py::test_the_cap_holds_though_redis_comes_back_empty[3]",
        NO_WAIT_FOR_OTHERS,
    ),
    guard(
        "supervisord starts the Celery worker again",
        "chaos/test_kill_loop.py::test_after_any_deaths_records_and_machine_agree",
        (
            CONF,
            "priority=30\nstartsecs=5\nautorestart=true\nstartretries=10\nstopwaitsecs=6\n",
            "priority=30\nstartsecs=5\nautorestart=false\nstartretries=10\nstopwaitsecs=6\n",
        ),
        CHAOS_SEED="2",
    ),
    guard(
        "what is over is taken out of the user's record",
        "chaos/test_soak.py::test_nothing_grows_while_sessions_come_and_go",
        (f"{LIB}/closing.lua", "else redis.call('DEL', 'session:user:' .. user) end", "end"),
        SOAK_SECONDS="60",
    ),
    guard(
        "a dead Redis connection is noticed",
        "chaos/test_redis_black_hole.py::test_a_black_hole_is_answered_at_once_and_heals[silent for good]",
        ("orchestrator/store/connection.py", "        socket_timeout=patience,\n", ""),
    ),
    guard(
        "the call of an agent that must go goes on with another node's",
        "e2e/test_nodes.py::test_three_nodes_share_the_work_and_a_call_outlives_its_node",
        (RUNTIME, "served.context.stop(stop.result())", "served.context.leave(stop.result())"),
        STEP="one_whose_main_process_is_killed_hands_its_calls_over",
    ),
    guard(
        "a connection that was idle while Redis restarted is not handed out",
        "integration/test_connection.py::test_connections_that_were_idle_over_a_restart_of_redis_fail_nobody[connect]",
        ("orchestrator/store/connection.py", "MaintNotificationsConfig(enabled=False)", "MaintNotificationsConfig()"),
    ),
    guard(
        "only its deadline says that an agent is silent",
        "integration/test_refill.py::test_examining_finds_each_fault",
        (
            "orchestrator/worker/examine.py",
            "    if finding.memory <= memory_limit:\n",
            "    if finding.memory <= memory_limit and agent.last_beat is None:\n",
        ),
    ),
    guard(
        "an agent is the process that the host started, or one below it",
        "integration/test_identity.py::test_a_process_that_claims_a_running_boot_gets_nothing",
        (f"{LUA}/agent_ready.lua", "  if wrong then\n", "  if false then\n"),
    ),
    guard(
        "the host's word is an agent's identity",
        "integration/test_identity.py::test_what_counts_as_warm_can_be_handed_out[False-a shell script]",
        (f"{LUA}/agent_ready.lua", "if started[1] and started[2] then\n", "if false then\n"),
    ),
    guard(
        "whatever ends beside a call hands it over",
        "unit/test_runtime.py::test_an_entrypoint_whose_inner_task_is_cancelled_is_not_silent",
        ("agents/watched_tasks.py", "ends and not task.cancelled()", "ends"),
    ),
    guard(
        "a module keeps what it has opened",
        "unit/test_loaded.py::test_environment_files_and_sockets_stay_and_random_numbers_differ",
        ("orchestrator/host/spawn.py", "        disown()\n", "        os.closerange(3, 256)\n"),
    ),
    guard(
        "agents draw numbers of their own",
        "unit/test_loaded.py::test_environment_files_and_sockets_stay_and_random_numbers_differ",
        ("orchestrator/host/spawn.py", "        reseed()\n", "        pass\n"),
    ),
    guard(
        "a host that does not answer is killed",
        "chaos/test_survival.py::test_a_host_that_hangs_is_replaced_and_no_call_notices",
        (f"{WORKER}/host_link.py", "            client.kill()\n", "            pass\n"),
    ),
    # Retries and doubles
    guard(
        "supervisord starts the api again",
        "chaos/test_doubles.py::test_no_start_is_lost_while_the_api_is_killed_again_and_again",
        (CONF, "priority=40\nstartsecs=3\nautorestart=true", "priority=40\nstartsecs=3\nautorestart=false"),
    ),
    guard(
        "an agent whose session Redis has lost registers again",
        "chaos/test_doubles.py::test_an_agent_whose_session_redis_forgot_says_so_again[session]",
        (f"{LUA}/agent_beat.lua", "and not session_state(session) then return '' end", "and false then return '' end"),
    ),
    guard(
        "the lock of a beat that was killed runs out",
        "chaos/test_doubles.py::test_two_beats_are_one_and_a_killed_one_is_replaced",
        ("orchestrator/task_queue/app.py", '"redbeat_lock_timeout": 15,', '"redbeat_lock_timeout": 1500,'),
    ),
    guard(
        "who waits for a boot is told how it ended, however many wait",
        "chaos/test_flood.py::test_a_spawn_task_that_comes_again_and_again_starts_one_agent",
        (
            "orchestrator/store/agents.py",
            'await self._blocking.blmove(decided, decided, min(left, BLOCK_SECONDS), "LEFT", "RIGHT")',
            "(await self._blocking.blpop([decided], min(left, BLOCK_SECONDS)) or [None])[-1]",
        ),
    ),
    # Crash points
    guard(
        "a boot that nobody has claimed is given up",
        "chaos/test_crash_points.py::test_a_session_gets_one_agent_whoever_fails_at[api.after_assign-kill]",
        (DUE, "    exit_agent(id, 'unclaimed: no Celery worker took its spawn task')\n", "    return\n"),
    ),
    guard(
        "a boot that takes too long is given up",
        "chaos/test_crash_points.py::test_a_session_gets_one_agent_whoever_fails_at[agent.before_ready-hang]",
        (DUE, "function on_timeout.boot(id)\n", "function on_timeout.boot(id)\n  if true then return end\n"),
    ),
    guard(
        "a forked child records itself before anything else",
        "unit/test_host.py::test_a_host_killed_at_the_fork_leaves_no_unknown_agent[fork]",
        NO_RECORD,
    ),
    guard(
        "who counts as gone and lives is stopped",
        "chaos/test_crash_points.py::test_a_worker_that_dies_before_it_does_what_a_missed_deadline_asks_for",
        (PROCESSES, "        if agent.state is AgentState.EXITED:\n", "        if False:\n"),
    ),
    guard(
        "a death is told until it is acknowledged",
        "chaos/test_crash_points.py::"
        "test_a_death_is_acted_on_once_though_its_witness_dies[kill-watch.before_record_death]",
        NO_DEATHS,
    ),
    guard(
        "a death is told again, or missed in the list, or heard as silence, or seen by the health check",
        "chaos/test_crash_points.py::test_a_death_in_the_pool_is_made_up_for_though_its_witness_dies[watch.before_record_death]",
        NO_DEATHS,
        UNKNOWN_EXITED,
        NO_SILENCE,
        NO_CHECK,
    ),
    guard(
        "no fault point is listed and never used",
        "chaos/test_crash_points.py",
        ("orchestrator/faults.py", "POINTS: dict[str, str] = {\n", 'POINTS: dict[str, str] = {\n    "no.where": "",\n'),
    ),
    # Poison
    guard(
        "the breaker opens",
        "chaos/test_poison.py::test_a_module_that_kills_its_agents[exit]",
        (
            f"{LIB}/boot_failure.lua",
            "  if failures < BREAKER_FAILURES then return end\n",
            "  if true then return end\n",
        ),
    ),
    guard(
        "a session that has no agent ends",
        "chaos/test_poison.py::test_a_boot_that_is_too_slow_is_an_error_in_time_and_no_process_is_left",
        (DUE, "function on_timeout.start(id)\n", "function on_timeout.start(id)\n  if true then return end\n"),
    ),
    guard(
        "what was said is gone from the disk",
        "integration/test_forgetting.py::test_what_was_said_is_gone_from_the_disk",
        ("orchestrator/store/upkeep.py", "            await self._redis.bgrewriteaof()\n", "            pass\n"),
    ),
    guard(
        "records are bounded by their number",
        "integration/test_forgetting.py::test_records_are_bounded_by_their_number",
        (f"{LIB}/closing.lua", "  keep_last('session:over', id, policy('session_keep_count'), drop_session)\n", ""),
    ),
    guard(
        "a log is bounded in bytes",
        "integration/test_forgetting.py::test_a_log_is_bounded_in_lines_and_bytes",
        (f"{LUA}/append_logs.lua", "(bytes > most_bytes and kept > 1)", "false"),
    ),
    # LiveKit
    guard(
        "a phone that rings is not there",
        "integration/test_joining.py::test_a_phone_that_rings_is_no_user_until_it_is_answered",
        ("orchestrator/livekit/presence.py", '(kind != "SIP" or', "(True or"),
    ),
    guard(
        "an answer and a hang-up are seen when they happen",
        "unit/test_presence.py::test_an_agent_waits_until_the_phone_is_answered",
        ("agents/context.py", '        room.on("participant_attributes_changed", self.update_presence)\n', ""),
    ),
    guard(
        "what LiveKit refuses every agent costs one",
        "integration/test_joining.py::test_what_every_agent_would_be_refused_ends_the_session_at_once",
        (SERVED, "        elif refusal.permanent:\n", "        elif False:\n"),
    ),
    guard(
        "a room that LiveKit does not make is made",
        "integration/test_joining.py::test_the_room_is_made_for_the_agent_though_no_user_asks",
        (f"{LUA}/agent_no_room.lua", "set_deadline('room', session, 0)\n", ""),
    ),
    guard(
        "LiveKit's words carry no token",
        "unit/test_livekit_refusals.py::test_words_are_livekits_own_without_its_token",
        ("orchestrator/livekit/refusals.py", '_TOKEN.sub("(token)", text).split()', "text.split()"),
    ),
    guard(
        "identities fit into LiveKit's limit",
        "unit/test_livekit_refusals.py::test_identities_stay_within_livekits_limit",
        ("orchestrator/livekit/tokens.py", "    if len(raw) <= IDENTITY_BYTES:\n", "    if True:\n"),
    ),
    guard(
        "a node that is put back ends no call",
        "integration/test_nodes.py::test_a_node_that_is_put_back_ends_no_call_however_often",
        (
            f"{LUA}/undrain_node.lua",
            "redis.call('ZREM', 'deadlines', 'goodbye|' .. id) == 1",
            "redis.call('ZSCORE', 'deadlines', 'goodbye|' .. id)",
        ),
    ),
    guard(
        "a node that came back keeps its queue",
        "integration/test_nodes.py::test_a_node_that_came_back_is_not_forgotten",
        (f"{LUA}/forget_node.lua", "redis.call('EXISTS', key) == 1", "false"),
    ),
    guard(
        "a LiveKit that hangs is noticed",
        "chaos/test_livekit.py::test_a_livekit_that_stands_still_ends_no_call",
        (
            ROOMS,
            "                asyncio.timeout(REQUEST_SECONDS),\n                aiohttp.ClientSession() as http,",
            "                asyncio.timeout(None),\n                aiohttp.ClientSession() as http,",
        ),
    ),
    guard(
        "starts are refused while LiveKit is away",
        "chaos/test_livekit.py::test_signalling_is_swallowed_and_the_call_goes_on",
        (f"{LIB}/admission.lua", "if down then return 'livekit', down end", ""),
    ),
    guard(
        "an agent tries again to join",
        "chaos/test_livekit.py::test_an_agent_that_cannot_join_yet_tries_until_it_can",
        (SERVED, "retry=retry_if_exception_type(rtc.ConnectError)", "retry=retry_if_exception_type(KeyError)"),
    ),
    guard(
        "while LiveKit is away nobody is replaced for not joining",
        "chaos/test_livekit.py::test_an_agent_that_cannot_join_yet_tries_until_it_can",
        (
            DUE,
            "  if redis.call('EXISTS', 'livekit:down') == 1 then return set_deadline('join',",
            "  if false then return set_deadline('join',",
        ),
    ),
    guard(
        "supervisord starts LiveKit again",
        "chaos/test_livekit.py::test_a_livekit_that_was_killed_loses_no_call_and_leaves_none_hanging",
        (
            CONF,
            "autostart=%(ENV_EMBEDDED_LIVEKIT)s\npriority=10\nstartsecs=1\nautorestart=true",
            "autostart=%(ENV_EMBEDDED_LIVEKIT)s\npriority=10\nstartsecs=1\nautorestart=false",
        ),
    ),
    # Drain, reload
    guard(
        "the drain waits for the calls",
        "e2e/test_drain.py::test_calls_are_heard_until_the_drain_is_over",
        ("orchestrator/node/drain.py", "while calls and time.monotonic() < deadline:", "while False:"),
    ),
    guard(
        "the drain waits for the calls though Redis is away",
        "chaos/test_drain_without_redis.py::test_calls_are_heard_until_the_drain_is_over[gone for good]",
        ("orchestrator/node/drain.py", "            return self._living()\n", "            return 0\n"),
    ),
    guard(
        "the drain waits for the agents that live, whatever is wrong with the api",
        "unit/test_drain.py::test_whatever_is_wrong_with_the_api_the_agents_that_live_have_their_time",
        ("orchestrator/node/drain.py", "            return self._living()\n", "            return 0\n"),
    ),
    guard(
        "agents hear that their node stops though Redis is away",
        "unit/test_runtime.py::test_without_redis_an_agent_parts_by_its_nodes_word",
        ("agents/node_shutdown.py", "                say_goodbye(max(0.0, notice.over_at - now))\n", ""),
    ),
    guard(
        "what a killed node has left says nothing to agents",
        "unit/test_drain.py::test_what_a_killed_node_has_left_says_nothing",
        ("orchestrator/node/shutdown_notice.py", "if text and _has_writer(file) else", "if text else"),
    ),
    guard(
        "a caller does not read or drive the agent's session",
        "e2e/test_voice.py::test_people_talk_with_agents",
        ("agents/voice.py", ", session_host=False", ""),
        STEP="a_caller_reads_and_drives_no_more_of_the_agent_than_by_voice",
    ),
    guard(
        "typed words are not taken unless that is wanted",
        "e2e/test_voice.py::test_people_talk_with_agents",
        ("agents/voice.py", "text_input=_text_input()", "text_input=True"),
        STEP="a_caller_reads_and_drives_no_more_of_the_agent_than_by_voice",
    ),
    guard(
        "who waits for a drain or a reload waits on while Redis is away",
        "unit/test_commands.py::test_what_is_waited_for_goes_on_while_redis_is_away",
        (
            "orchestrator/node/api_client.py",
            "        except StoreUnavailable:\n            return None\n",
            "        except NotFound:\n            return None\n",
        ),
    ),
    guard(
        "the end of a call is recorded by the drain, or by the agent that is told to stop",
        "chaos/test_drain.py::test_without_a_drain_the_state_is_consistent_all_the_same",
        (SERVED, "create_task(self.reports.end(outcome, reason))", "create_task(asyncio.sleep(0))"),
        (DUE, "function on_timeout.goodbye(id)\n", "function on_timeout.goodbye(id)\n  if true then return end\n"),
    ),
    guard(
        "agents are told that the drain is nearly over",
        "e2e/test_voice.py::test_people_talk_with_agents",
        (DUE, "cjson.encode({type = 'goodbye', seconds = left / 1000})", "cjson.encode({type = 'other'})"),
        STEP="the_voice_says_goodbye_before_its_node_stops",
    ),
    guard(
        "warm agents of older code are replaced",
        "chaos/test_reload.py::test_new_code_comes_live_beside_a_call_on_the_old_code",
        (f"{LUA}/mark_stale.lua", "if state == 'ready' or state == 'starting' then", "if false then"),
    ),
    guard(
        "new code is tried elsewhere first",
        "chaos/test_reload.py::test_broken_code_is_refused_with_its_reason_and_changes_nothing",
        (PRELOAD, "        if code == _PASSED:\n", "        if True:\n"),
    ),
    # Processes
    guard(
        "log files are bounded while they are flooded",
        "chaos/test_flood.py::test_a_flood_of_output_is_bounded_and_nobody_else_notices",
        (
            HOST,
            "self._children.look(now, self._settings.agent_log_bytes)",
            "self._children.look(now, self._settings.agent_log_bytes * 1000)",
        ),
    ),
    guard(
        "TERM, then KILL at the deadline",
        "chaos/test_flood.py::test_an_agent_that_will_not_go_is_gone_ten_seconds_after_its_end[deaf]",
        (CHILDREN, "                child.identity.signal_group(signal.SIGKILL)\n", "                pass\n"),
    ),
    guard(
        "a process is its pid and its start",
        "chaos/test_flood.py::test_a_stranger_who_has_an_agents_pid_is_never_signalled",
        (
            PROCESS,
            "        return ProcessId.of(self.pid) == self\n",
            "        return ProcessId.of(self.pid) is not None\n",
        ),
    ),
    guard(
        "the second process of an agent gives up",
        "unit/test_host.py::test_the_second_process_of_an_agent_gives_up",
        (
            FOLDER,
            "            os.link(temporary, self._record(process.agent_id))\n",
            "            os.replace(temporary, self._record(process.agent_id)); temporary.touch()\n",
        ),
    ),
    guard(
        "the host looks for records it does not know",
        "unit/test_host.py::test_a_child_that_was_not_registered_is_found[fork]",
        (HOST, "        if now >= self._children.next_scan:\n            self._children.scan()\n", ""),
    ),
    guard(
        "what a dead leader left in its group, or elsewhere, is killed",
        "unit/test_host.py::test_adopted_agents_leave_no_children_behind[killed by a stranger]",
        (CHILDREN, "            child.identity.kill_left_behind()\n", "            pass\n"),
        (CHILDREN, "            kill_strays(self._strays_of - self.living.keys())\n", "            pass\n"),
    ),
    guard(
        "what was sent out of the group is killed too",
        "unit/test_host.py::test_who_sends_a_child_out_of_its_group_takes_it_along_all_the_same[False]",
        (CHILDREN, "            kill_strays(self._strays_of - self.living.keys())\n", "            pass\n"),
    ),
    guard(
        "a flood's newest output stays",
        "unit/test_host.py::test_a_flood_fills_no_disk",
        (
            FOLDER,
            "if found.st_blocks * 512 > limit and not _punch(path, found.st_size - limit // 2):",
            "if found.st_blocks * 512 > limit:",
        ),
    ),
    guard(
        "who floods is looked at more often",
        "unit/test_host.py::test_a_flood_is_watched_more_closely",
        (CHILDREN, "                self.next_look = now + FLOOD_LOOK\n", "                pass\n"),
    ),
    guard(
        "every child is reaped",
        "unit/test_host.py::test_a_thousand_agents_leave_nothing_behind",
        (CHILDREN, "        self._strays_of.add(process.agent_id)\n", "        os.open(os.devnull, 0)\n"),
    ),
    guard(
        "a host that goes alone leaves its agents",
        "unit/test_host.py::test_a_host_that_is_restarted_alone_leaves_its_agents",
        (HOST, "        while not (self._leaving or", "        while not ((self._leaving and not self._children) or"),
    ),
    guard(
        "loading that hangs is ended",
        "unit/test_host_code.py::test_a_module_that_hangs_while_it_is_loaded_does_not_hang_the_host_for_ever",
        (PRELOAD, "    signal.setitimer(signal.ITIMER_REAL, seconds)\n", ""),
    ),
    guard(
        "a module that kills the host is not loaded a third time",
        "unit/test_host_code.py::test_a_module_that_kills_the_host_is_not_loaded_a_third_time",
        (PRELOAD, "        return self._count() >= _DEATHS\n", "        return False\n"),
    ),
    guard(
        "a stop under way survives the new image",
        "unit/test_host_code.py::test_a_stop_that_is_under_way_is_brought_to_its_end",
        (
            CHILDREN,
            "        if stop := self._stops.get(process.agent_id):\n",
            "        if stop := None:\n",
        ),
    ),
    guard(
        "lines are shipped at a bounded rate",
        "unit/test_log_shipper.py::test_a_second_of_flood_is_a_second_of_lines",
        (SHIPPER, "        file.lines = max(0.0, file.lines - chunk.counted)\n", ""),
    ),
    guard(
        "a shipped line is one line wherever it is shown",
        "unit/test_log_shipper.py::test_rubbish_is_text_of_one_line_each",
        (f"{WORKER}/log_chunks.py", 'return _CONTROL.sub("", _ESCAPE', 'return re.sub("-x-", "", _ESCAPE'),
    ),
    guard(
        "the status page writes out what a browser would obey in a text",
        "e2e/test_status_page.py::test_the_status_page",
        (
            "orchestrator/web/dom.js",
            'const wanted = oneLine(String(value ?? ""));',
            'const wanted = String(value ?? "");',
        ),
        STEP="controls_and_directions_of_strangers_are_written_out",
    ),
    guard(
        "the log of an agent is the admin's",
        "integration/test_agent_logs.py::test_only_the_admin_reads_it",
        ("orchestrator/api/agents.py", "route_class=gated(administrator), ", ""),
    ),
    guard(
        "a failure is listed as long as its record and log are kept",
        "integration/test_agent_logs.py::test_a_log_is_kept_as_long_as_its_failure_is_listed",
        ("orchestrator/api/status_view.py", "        self._failures.keep(kept)\n", ""),
    ),
    guard(
        "the cgroup's memory counts",
        "unit/test_memory.py::test_a_limit_further_up_counts",
        (
            "orchestrator/machine/memory.py",
            "for depth in range(len(parts) + 1)]",
            "for depth in range(len(parts), len(parts) + 1)]",
        ),
    ),
    # The node
    guard(
        "a program that is given up ends the node",
        "unit/test_supervise.py::test_a_program_that_does_not_start_ends_the_node",
        (
            "orchestrator/node/supervisor.py",
            "        events.subscribe(events.ProcessStateFatalEvent, self._on_fatal)\n",
            "",
        ),
    ),
    guard(
        "with its node the host is told to stop its agents",
        "unit/test_supervise.py::test_the_host_hears_another_signal_when_it_is_stopped_with_its_node",
        (
            "orchestrator/node/supervisor.py",
            "        events.subscribe(events.SupervisorStoppingEvent, self._on_stopping)\n",
            "",
        ),
    ),
    guard(
        "a stop signal between fork and exec is heard",
        "unit/test_supervise.py::test_a_program_that_is_just_being_started_hears_the_signal",
        (
            "orchestrator/node/configuration.py",
            "                    signal.signal(number, signal.SIG_DFL)\n",
            "                    pass\n",
        ),
    ),
    guard(
        "programs go when their supervisor is killed",
        "unit/test_supervise.py::test_its_programs_go_with_it_when_it_is_killed",
        (
            "orchestrator/node/configuration.py",
            "                    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)\n",
            "                    pass\n",
        ),
    ),
    guard(
        "orphans go with the node",
        "unit/test_supervise.py::test_no_orphan_is_left_at_its_end",
        ("orchestrator/node/supervise.py", "            _kill_orphans()\n", ""),
    ),
    guard(
        "a path is one word to the programs, whatever characters it has",
        "unit/test_paths.py::test_a_node_lives_in_a_folder_of_any_name",
        ("orchestrator/node/configuration.py", 'shlex.quote(value) if option == "command" else value', "value"),
    ),
    guard(
        "an error of supervisord shows no value of the environment",
        "unit/test_paths.py::test_an_error_of_supervisord_shows_no_value_of_the_environment",
        (
            "orchestrator/node/configuration.py",
            "        except ValueError as failure:\n",
            "        except KeyError as failure:\n",
        ),
    ),
    guard(
        "a terminal that is closed stops the node",
        "unit/test_terminal.py::test_a_terminal_that_is_closed_stops_the_node",
        ("orchestrator/node/supervise.py", "        supervisor.hangup_stops = stops\n", ""),
    ),
    guard(
        "a SIGHUP without a terminal is nothing",
        "unit/test_terminal.py::test_without_a_terminal_a_hangup_is_nothing",
        (
            "orchestrator/node/supervisor.py",
            "        if stopping or not self.hangup_stops:\n",
            "        if stopping:\n",
        ),
    ),
    guard(
        "a terminal that is closed cuts no drain short",
        "unit/test_terminal.py::test_a_terminal_that_is_closed_cuts_no_drain_short",
        (
            "orchestrator/node/supervisor.py",
            "        elif self._hung_up and number in STOP_SIGNALS:\n            self._hung_up = False\n",
            "",
        ),
    ),
    guard(
        "a terminal that takes nothing holds up nothing",
        "unit/test_terminal.py::test_a_terminal_that_takes_nothing_holds_up_nothing",
        (
            "orchestrator/node/supervise.py",
            "    sys.stdout, sys.stderr = NonBlockingText(sys.stdout), NonBlockingText(sys.stderr)\n",
            "",
        ),
    ),
    guard(
        "a second signal skips the drain",
        "unit/test_supervise.py::test_a_second_signal_does_not_wait_for_the_calls[15]",
        ("orchestrator/node/supervisor.py", "            self._skip_drain()\n", "            pass\n"),
    ),
    guard(
        "what does not fit into the kill window is said",
        "unit/test_kill_window.py::test_a_window_that_is_too_short_is_named_with_the_numbers_and_the_mend",
        ("orchestrator/operations/kill_window.py", "if seconds is None or needed <= seconds:", "if True:"),
    ),
    guard(
        "the api answers while Redis is a black hole, a crowd too",
        "integration/test_api.py::test_a_black_hole_for_a_redis_is_503_in_two_seconds",
        ("orchestrator/api/lifecycle.py", "PATIENCE = 0.9", "PATIENCE = 3.0"),
    ),
    guard(
        "a key stands for one start",
        "integration/test_api.py::test_fifty_requests_with_one_key_are_one_start",
        (ASSIGN, "  if earlier[1] then return", "  if false then return"),
    ),
    guard(
        "the room of a session that is over is deleted",
        "integration/test_store.py::test_the_room_of_a_session_that_is_over_is_deleted_until_that_has_worked",
        (DUE, "  set_deadline('close', id, 5000)\n", ""),
    ),
    guard(
        "time in which nobody could look at the deadlines does not count",
        "integration/test_store.py::test_time_in_which_nobody_could_look_does_not_count",
        (DUE, "if math.abs(missed) > PAUSE_MS then", "if false then"),
    ),
    guard(
        "an agent that was dead when it was handed out has failed nobody",
        "integration/test_store.py::test_who_was_dead_when_it_was_handed_out_has_failed_nobody",
        (
            f"{LIB}/exit.lua",
            "replace_agent(session, id, unread and FOUND_DEAD or cause)",
            "replace_agent(session, id, cause)",
        ),
    ),
    guard(
        "a drain waits for rooms that are to be deleted",
        "integration/test_api.py::test_a_node_drains",
        ("orchestrator/store/reading.py", "            closing=left[node],\n", ""),
    ),
    guard(
        "the living register before starts are answered",
        "integration/test_store.py::test_the_living_register_before_starts_are_answered",
        (ASSIGN, "if redis.call('EXISTS', 'policy', 'pool:target') < 2 then", "if not policy('max_sessions') then"),
    ),
    guard(
        "an agent's own heartbeat says whether it lives",
        "integration/test_refill.py::test_an_agent_that_is_heard_lives_whatever_is_known_of_its_node",
        (
            "orchestrator/pool/refill.py",
            "    ended, next_suspects = [], set()\n",
            "    for agent in await store.agents():\n        await store.record_exit(agent.id, 'gone')\n"
            "    ended, next_suspects = [], set()\n",
        ),
    ),
    guard(
        "a beat that begins asks for a refill",
        "integration/test_beat.py::test_a_beat_that_begins_asks_for_a_refill_at_once",
        ("orchestrator/worker/beat.py", "        if not self._leads:\n", "        if False:\n"),
    ),
    guard(
        "a schedule that Redis has lost is written again",
        "integration/test_beat.py::test_a_schedule_that_redis_has_lost_is_written_again",
        ("orchestrator/worker/beat.py", "            self.setup_schedule()\n", "            pass\n"),
    ),
    # What LiveKit says
    guard(
        "a webhook counts once, however often it is sent",
        "integration/test_webhook.py::test_a_replay_counts_once",
        (f"{LUA}/webhook.lua", "'1', 'NX', 'EX', REMEMBER_S", "'1', 'EX', REMEMBER_S"),
    ),
    guard(
        "a webhook's signature has no scheme in front",
        "integration/test_webhook.py::test_what_is_not_signed_by_us_is_refused[a scheme]",
        (
            "orchestrator/livekit/webhooks.py",
            "body.decode(), authorization)",
            "body.decode(), authorization.split()[-1])",
        ),
    ),
    guard(
        "nobody is redirected by the Host they send",
        "integration/test_slashes.py::test_no_route_redirects",
        ("orchestrator/api/app.py", "redirect_slashes=False", "redirect_slashes=True"),
    ),
    guard(
        "a path behind a proxy counts, taken off or passed on",
        "integration/test_root_path.py::test_every_page_finds_its_files[passed on-status-5]",
        ("orchestrator/api/below.py", "scope.update(path=path, raw_path=raw, root_path=self._root)", "pass"),
    ),
    guard(
        "the page knows its path without the slash at its end",
        "integration/test_root_path.py::test_the_bare_path_is_the_page_too_and_nobody_is_redirected[stripped]",
        (
            "orchestrator/api/frontend.py",
            """return page.replace("<head>", f'<head>\\n    <base href="{root}/" />', 1)""",
            "return page",
        ),
    ),
    guard(
        "no path of ours can be taken for one behind a proxy's",
        "unit/test_settings.py::test_a_bad_value_is_named[ROOT_PATH-/api-the api itself has /api/agents: take another path]",
        ("orchestrator/config/root_path.py", "    for own in OWN:", "    for own in ():"),
    ),
    guard(
        "the documentation may load nothing foreign",
        "unit/test_docs_page.py::test_the_page_and_its_files_are_ours_and_may_load_nothing_else",
        (
            "orchestrator/api/docs_page.py",
            'FileResponse(WEB / "docs.html", headers=_HEADERS)',
            'FileResponse(WEB / "docs.html")',
        ),
    ),
    guard(
        "a webhook has a size of its own",
        "integration/test_webhook.py::test_the_size_of_a_body",
        ("orchestrator/api/app.py", ", larger={WEBHOOK_PATH: webhook.BODY_BYTES}", ""),
    ),
    guard(
        "one look at LiveKit decides nothing",
        "integration/test_webhook.py::test_no_webhook_ends_a_call",
        (
            f"{LUA}/reconcile_room.lua",
            "local first = contradicted_since(finding)",
            "local first = contradicted_since(finding) or NOW - 99999",
        ),
    ),
    guard(
        "what only LiveKit has said it may take back",
        "integration/test_webhook.py::test_a_user_whom_livekit_misses_twice_has_left",
        (f"{LUA}/reconcile_room.lua", "if not waits or contradicted_since('user_gone') then", "if not waits then"),
    ),
    guard(
        "a takeover is left alone",
        "integration/test_webhook.py::test_an_agent_that_is_not_in_the_room_is_replaced",
        (f"{LUA}/reconcile_room.lua", " and agent_state(agent) == 'running'", ""),
        (
            f"{LUA}/reconcile_room.lua",
            "(state == 'ready' or state == 'active') and get(key, 'agentId') == agent",
            "true",
        ),
    ),
    guard(
        "whoever looks has the next round, told or not",
        "chaos/test_untold.py::test_a_call_goes_its_way_though_nobody_tells",
        (DUE, "set_deadline_if_none('reconcile', '',", "local _ = math.max(0, 0,"),
    ),
    guard(
        "only rooms that we name are deleted",
        "integration/test_webhook.py::test_rooms_of_others_are_not_even_asked_about",
        ("orchestrator/worker/reconciler.py", "re.fullmatch(ROOM_PATTERN, session.room_name) is not None", "True"),
    ),
    guard(
        "an agent goes before its host when memory ends",
        "unit/test_host.py::test_when_memory_ends_the_kernel_takes_an_agent_before_its_host",
        ("orchestrator/host/spawn.py", "OOM_SCORE_MORE = 300", "OOM_SCORE_MORE = 0"),
    ),
    # Several nodes
    guard(
        "a start goes to the node with the smallest load",
        "e2e/test_nodes.py::test_three_nodes_share_the_work_and_a_call_outlives_its_node",
        (f"{LIB}/take_warm.lua", "and 0 or 2) + load_of(node)", "and 0 or 2) - load_of(node)"),
        STEP="each_has_its_share_and_starts_go_where_there_is_most_room",
    ),
    guard(
        "a user comes back to the node of the last time",
        "e2e/test_nodes.py::test_three_nodes_share_the_work_and_a_call_outlives_its_node",
        (f"{LIB}/take_warm.lua", "node.id == prefer and 0 or 2", "2"),
        STEP="a_user_comes_back_to_the_same_node",
    ),
    guard(
        "calls that outlast a drain go on elsewhere",
        "e2e/test_nodes.py::test_three_nodes_share_the_work_and_a_call_outlives_its_node",
        NO_HANDOVER,
        STEP="one_that_is_drained_hands_its_calls_over",
    ),
    guard(
        "whoever is left hears that a node is silent",
        "e2e/test_nodes.py::test_three_nodes_share_the_work_and_a_call_outlives_its_node",
        NO_SILENCE,
        STEP="one_that_vanishes_is_replaced_by_the_others",
    ),
    guard(
        "a container that goes hands its calls to the one that stays",
        "e2e/test_deploy.py::test_a_call_lives_through_a_deploy_and_the_pool_is_never_empty",
        NO_HANDOVER,
    ),
    guard(
        "what this release writes the previous one reads",
        "integration/test_model.py::test_two_releases_share_a_redis_for_the_length_of_a_deploy",
        (f"{LIB}/lists.lua", "if node and to.nodeSet and before ~= to.nodeSet then", "if false then"),
        HYPOTHESIS_PROFILE="guard",
    ),
    guard(
        "an agent whose record is lost leaves the lists of its node",
        "integration/test_store.py::test_an_agent_whose_record_is_lost_leaves_the_lists_of_its_node",
        (f"{LUA}/recount_nodes.lua", "if right[id] ~= node then", "if false then"),
    ),
    guard(
        "a node boots its own share",
        "integration/test_nodes.py::test_each_node_boots_its_share",
        (f"{LUA}/reserve_agents.lua", "math.max(own, missing_agents(nodes) - others)", "missing_agents(nodes)"),
    ),
    guard(
        "nodes that are held back do not wake each other",
        "integration/test_nodes.py::test_nodes_that_are_held_back_do_not_wake_each_other",
        (f"{LUA}/reserve_agents.lua", "if next_at and NOW < next_at then", "if false then"),
    ),
    guard(
        "a node whose agents do not boot is left alone",
        "integration/test_nodes.py::test_a_node_whose_agents_do_not_boot_is_left_alone",
        (f"{LIB}/boot_nodes.lua", "return #sound > 0 and sound or able", "return able"),
    ),
    guard(
        "a call is handed over only where it fits",
        "integration/test_nodes.py::test_a_call_is_not_handed_over_to_where_no_room_is",
        (DUE, "and can_serve_one_more() then", "and any_node_in_service() then"),
    ),
    guard(
        "a full node serves nobody with what it has booted",
        "integration/test_nodes.py::test_what_is_booted_on_a_full_node_joins_the_pool",
        (f"{LIB}/returning.lua", " and may_serve_on(node) then", " then"),
    ),
    guard(
        "a node that is late is asked last",
        "integration/test_nodes.py::test_a_node_that_is_late_is_asked_last",
        (f"{LIB}/take_warm.lua", "(node.late and 4 or", "("),
    ),
    guard(
        "a node has no more calls than it has room for",
        "integration/test_nodes.py::test_warm_agents_of_a_full_node_are_not_handed_out",
        (f"{LIB}/nodes.lua", "return not node.max or load_of(node) < 1 end", "return true end"),
    ),
    guard(
        "a miss is booted where there is most room",
        "integration/test_nodes.py::test_a_miss_is_booted_where_there_is_most_room",
        (f"{LUA}/claim_agent.lua", "if best and best ~= me then", "if false then"),
    ),
    guard(
        "what this release does not understand it leaves alone",
        "integration/test_nodes.py::test_a_redis_of_another_release_is_left_alone",
        ("orchestrator/store/schema.py", "if readable_by > VERSION:", "if False:"),
    ),
    # The voice
    guard(
        "what is hosted needs no offline speech",
        "unit/test_hosted.py::test_without_offline_speech_hosted_voices_are_enough",
        ("agents/voice.py", "    if not (hear or speak):\n        return\n", "    hear = speak = True\n"),
    ),
    guard(
        "a pipeline that is closed is left",
        "unit/test_pipeline.py::test_a_session_that_closes_by_itself_is_handed_over",
        (
            "agents/pipeline.py",
            "    def _on_close(self, _: object) -> None:\n        self._leave(for_good=False)\n",
            "    def _on_close(self, _: object) -> None:\n        pass\n",
        ),
    ),
    guard(
        "apologies do not count as answers",
        "unit/test_pipeline.py::test_each_failed_turn_is_apologised_for_and_the_fourth_in_a_row_hands_over",
        (
            "agents/pipeline.py",
            "            self._spoken_to = False\n",
            "            self._spoken_to, self._failures = False, 0\n",
        ),
    ),
    guard(
        "a provider's refusal ends the call at once",
        "unit/test_pipeline.py::test_a_refusal_ends_the_call_at_once",
        ("agents/pipeline.py", "        if for_good or (kind", "        if (kind"),
    ),
    guard(
        "what a caller sends is counted",
        "integration/test_incoming.py::test_a_caller_who_sends_more_than_an_agent_takes_ends_the_call",
        ("agents/incoming.py", "            loop.call_soon_threadsafe(_end, context)\n", "            pass\n"),
    ),
    guard(
        "one stream of a caller has a largest size",
        "integration/test_incoming.py::test_a_stream_that_unpacks_into_more_is_cut_and_a_chat_goes_on",
        (
            "agents/incoming.py",
            "data_stream=rtc.DataStreamOptions(max_payload_byte_length=STREAM_BYTES)",
            "data_stream=None",
        ),
    ),
    guard(
        "an agent that is silent and lives counts as one that serves no more",
        "integration/test_alerts.py::test_calls_whose_agents_are_silent_and_live_count_too",
        (DUE, "then count_failing_call(session, cause, true) end", "then end"),
    ),
    guard(
        "a warm agent that does not hear leaves the pool",
        "unit/test_runtime.py::test_a_warm_agent_that_beats_and_does_not_hear_goes",
        (RUNTIME, "if no_inbox and not self._assigned.done():", "if False:"),
    ),
    guard(
        "an agent whose event loop is blocked is silent",
        "e2e/test_sessions.py::test_sessions_from_their_start_to_their_end",
        (DUE, "function on_timeout.beat(id)\n", "function on_timeout.beat(id)\n  if true then return end\n"),
        STEP="agents_that_serve_no_more_are_replaced_and_heard_again",
    ),
    guard(
        "connections follow a failover",
        "integration/test_failover.py::test_every_connection_of_the_store_moves",
        (
            "orchestrator/store/moving.py",
            "self.mark_for_reconnect()  # not at once: answers to other commands may be on their way",
            "pass",
        ),
    ),
    guard(
        "Celery's connections follow a failover",
        "integration/test_failover.py::test_beat_moves",
        (
            "orchestrator/store/moving.py",
            "                self.mark_for_reconnect()\n            raise\n",
            "                pass\n            raise\n",
        ),
    ),
    guard(
        "a node follows a failover though the old server lives",
        "chaos/test_redis_black_hole.py::test_a_failover_is_followed_though_the_old_server_lives",
        (
            "orchestrator/store/refusals.py",
            '_ELSEWHERE = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})',
            "_ELSEWHERE = frozenset()",
        ),
    ),
    guard(
        "something else that answers is not LiveKit",
        "unit/test_livekit_refusals.py::test_the_operator_reads_livekits_own_words[200-<html>sign in</html>-0-expected10]",
        (
            "orchestrator/livekit/rooms.py",
            'if status == HTTPStatus.OK and not text.lstrip().startswith("{"):',
            "if False:",
        ),
    ),
    guard(
        "the node's loops outlast what nobody has thought of",
        "unit/test_loops.py::test_a_loop_of_the_node[heartbeat]",
        (
            f"{WORKER}/heartbeat.py",
            "            except Exception:\n                log.exception(\"the node's heartbeat failed",
            "            except StoreUnavailable:\n                log.exception(\"the node's heartbeat failed",
        ),
    ),
    guard(
        "the change feed outlasts any failure",
        "unit/test_loops.py::test_the_feed",
        (
            "orchestrator/api/change_feed.py",
            "except Exception as failure:  # the feed must outlast any failure",
            "except StoreUnavailable as failure:",
        ),
    ),
    guard(
        "calls whose agents live and serve no more are counted once each",
        "integration/test_alerts.py::test_calls_whose_agents_live_and_serve_no_more_are_told_until_one_is_answered",
        (
            f"{LIB}/failing_calls.lua",
            "  if redis.call('HSETNX', 'session:' .. session, 'failing', 1) == 0 then return end\n",
            "  redis.call('HSET', 'session:' .. session, 'failing', 1)\n",
        ),
    ),
    guard(
        "a neighbour's task is given back",
        "integration/test_neighbours.py::test_every_task_of_a_neighbour_is_done_by_the_neighbour",
        (
            "orchestrator/task_queue/app.py",
            '        "worker_consumer": "orchestrator.task_queue.foreign_tasks:Consumer",\n',
            "",
        ),
    ),
    guard(
        "what a neighbour holds is not given back by us",
        "integration/test_neighbours.py::test_what_the_neighbour_holds_is_not_given_back_by_us",
        ("orchestrator/task_queue/app.py", '"unacked_index_key": "celery:unacked:index",', ""),
        ("orchestrator/task_queue/app.py", '"unacked_key": "celery:unacked",', ""),
    ),
    guard(
        "every script's keys have the prefix",
        "integration/test_prefix.py::test_a_session_leaves_no_key_without_the_prefix",
        (f"{LUA}/lib/prefix.lua", "server.call(name, PREFIX .. key, ...)", "server.call(name, key, ...)"),
    ),
    guard(
        "certificates are checked by every client alike",
        "integration/test_clients.py::test_tls_is_checked_by_every_kind_alike",
        ("orchestrator/config/redis_url.py", '"required" if self.verify else "none"', '"none"'),
        ("orchestrator/config/redis_url.py", '"ssl_check_hostname": self.verify', '"ssl_check_hostname": False'),
    ),
    guard(
        "the embedded Valkey asks for a password",
        "integration/test_clients.py::test_the_embedded_valkey_lets_nobody_in_without_its_password",
        ("orchestrator/node/environment.py", "requirepass {password}\n", ""),
    ),
    guard(
        "what goes into the image has one of the hashes that we know",
        "unit/test_pins.py::test_the_image_installs_nothing_without_a_hash",
        ("Dockerfile.orchestrator", "--require-hashes ", ""),
    ),
    guard(
        "every key is tried with the rights of Redis's user",
        "integration/test_clients.py::test_every_key_of_the_docs_is_tried",
        ("orchestrator/store/rights.py", " address:sessions:x room:asker:x", ""),
    ),
)
