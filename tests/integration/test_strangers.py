"""Limits for unknown callers: a forged client secret gives no access, other users' calls are closed, seats are few."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from orchestrator.api.access import AFTERWARDS_SECONDS
from orchestrator.api.app import create
from orchestrator.api.attempts import MOST
from orchestrator.models import new_id
from orchestrator.store import DispatchRef, Store
from orchestrator.worker.reconciler import UNSERVED_SECONDS, Reconciler
from tests.support.api import ADMIN, is_problem, serve, settings, start
from tests.support.pool import assign, warm

KEY = "first-key-of-16-and-more"


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def every_route(app: Any, session: str) -> Iterator[tuple[str, str]]:
    """Yield (method, path) of everything that the app serves, whether OpenAPI lists it or not."""
    routes = list(app.routes)
    while routes:
        route = routes.pop()
        if isinstance(route, Mount):
            yield "GET", f"{route.path}/status.html"
        elif isinstance(route, Route | APIRoute):
            path = route.path_format.replace("{session_id}", session).replace("{node}", "n")
            for method in (route.methods or set()) - {"HEAD", "OPTIONS"}:
                yield method, path.replace("{reload_id}", "0" * 16).replace("{agent_id}", session)
        else:
            routes += getattr(route, "routes", []) or getattr(route, "original_router", route).routes


async def answers(http: httpx.AsyncClient, method: str, path: str, session: str, headers: dict[str, str]) -> int:
    body = {"sessionId": session} if path.endswith(("/stop", "/token")) else {"userId": "eve"}
    async with http.stream(method, path, headers=headers, json=body if method == "POST" else None) as answer:
        return answer.status_code


@pytest.mark.parametrize("keys", [KEY, ""])
async def test_an_invalid_client_secret_is_refused_on_every_route(
    store: Store, raw: redis.Redis, valkey_url: str, keys: str
) -> None:
    app = create(settings(valkey_url, api_keys=keys, rate_limit="1000/minute"))
    async with serve(app) as http:
        begun = [(await start(http, user, headers=ADMIN)).json() for user in ("ada", "grace", "over")]
        mine, other, over = (session["sessionId"] for session in begun)
        await http.post("/api/session/stop", json={"sessionId": over}, headers=ADMIN)
        ended = int(raw.hget(f"session:{over}", "endedAt"))
        raw.hset(f"session:{over}", "endedAt", ended - (AFTERWARDS_SECONDS + 1) * 1000)
        forged = ["cs_", "cs_x", "cs_" + "A" * 43, begun[1]["clientSecret"], begun[2]["clientSecret"]]
        walked = 0
        for method, path in every_route(app, mine):
            if path.endswith("/events") and not keys and "logs" not in path:
                continue  # open to every caller with the session's id, and endless
            nobody = await answers(http, method, path, mine, {})
            for secret in forged:
                told = await answers(http, method, path, mine, bearer(secret))
                assert told == nobody or told in {401, 403, 404, 409}, (method, path, secret, told)
                walked += 1
                host = bearer(secret) | {"Host": "evil.example"}
                if not keys and nobody != 404 and path.startswith("/api/") and "webhook" not in path:
                    assert await answers(http, method, path, mine, host) in {403, 404, 405, 422}, (method, path, secret)
        assert walked > 100
        assert (await http.get("/api/health", headers=bearer(begun[0]["clientSecret"]))).status_code == (
            401 if keys else 200
        )
        look = await http.get(f"/api/session/{over}", headers=bearer(begun[2]["clientSecret"]))
        is_problem(look, 404, "not_found")
        assert (await http.get(f"/api/session/{other}", headers=bearer(begun[1]["clientSecret"]))).is_success


async def test_an_open_api_returns_a_live_session_only_to_its_starter(store: Store, valkey_url: str) -> None:
    await warm(store, valkey_url, 1)
    async with serve(create(settings(valkey_url))) as http:
        begun = (await start(http, "ada", headers={"Idempotency-Key": "a-key-that-nobody-guesses"})).json()
        for tried in ({}, bearer("cs_"), bearer("cs_x"), {"Idempotency-Key": "k"}, bearer("wrong")):
            told = await start(http, "ada", headers=tried)
            is_problem(told, 409, "user_has_session")
            assert begun["sessionId"] not in told.text
            assert begun["clientSecret"] not in told.text
        again = await start(http, "ada", headers=bearer(begun["clientSecret"]))
        assert (again.status_code, again.json()["sessionId"]) == (200, begun["sessionId"])
        assert again.json()["clientSecret"] == begun["clientSecret"]
        repeated = await start(http, "ada", headers={"Idempotency-Key": "a-key-that-nobody-guesses"})
        assert repeated.json()["clientSecret"] == begun["clientSecret"]
        operator = await start(http, "ada", headers=ADMIN)
        assert operator.json()["clientSecret"] == begun["clientSecret"]
        # The secret of an ended session does no harm, and another user's secret gives no access.
        await http.post("/api/session/stop", json={"sessionId": begun["sessionId"]})
        fresh = await start(http, "ada", headers=bearer(begun["clientSecret"]))
        assert fresh.json()["sessionId"] != begun["sessionId"]
        is_problem(await start(http, "ada", headers=bearer(begun["clientSecret"])), 409, "user_has_session")


async def test_a_guessed_idempotency_key_repeats_no_start_for_another_address(store: Store, valkey_url: str) -> None:
    app = create(settings(valkey_url, trusted_proxy="10.0.0.0/8"))
    async with serve(app) as http:
        first = await start(http, "ada", headers={"Idempotency-Key": "1", "X-Forwarded-For": "198.51.100.1"})
        again = await start(http, "ada", headers={"Idempotency-Key": "1", "X-Forwarded-For": "198.51.100.1:99"})
        assert again.json()["clientSecret"] == first.json()["clientSecret"]
        other = await start(http, "ada", headers={"Idempotency-Key": "1", "X-Forwarded-For": "198.51.100.2"})
        is_problem(other, 409, "user_has_session")


async def test_each_of_several_sessions_is_found_by_its_own_secret(store: Store, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url, sessions_per_user=2))) as http:
        begun = [(await start(http, "ada")).json() for _ in range(2)]
        for session in begun:
            again = (await start(http, "ada", headers=bearer(session["clientSecret"]))).json()
            assert (again["sessionId"], again["clientSecret"]) == (session["sessionId"], session["clientSecret"])
        is_problem(await start(http, "ada"), 409, "user_has_session")


async def test_a_backend_with_an_api_key_gets_its_users_session_again(store: Store, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url, api_keys=KEY))) as http:
        first, again = [(await start(http, "ada", headers=bearer(KEY))).json() for _ in range(2)]
        assert (first["sessionId"], first["clientSecret"]) == (again["sessionId"], again["clientSecret"])
        is_problem(await start(http, "ada", headers=bearer(first["clientSecret"])), 401, "unauthorized")


@pytest.mark.parametrize("keys", [KEY, ""])
async def test_callers_cannot_use_user_ids_that_are_derived_from_rooms(
    store: Store, valkey_url: str, keys: str
) -> None:
    from orchestrator.api.dispatch import user_of

    room = new_id("room")
    async with serve(create(settings(valkey_url, api_keys=keys))) as http:
        for taken in ("support-line", room, "r" * 300, "a\nb", ""):
            body = {"userId": user_of(taken)}
            answer = await http.post("/api/session/start", json=body, headers=bearer(KEY))
            assert is_problem(answer, 422, "malformed_request")["errors"][0]["field"] == "userId"
        for free in ("user-ada", "rooms:1", "my room:1", f"user-{room.removeprefix('room_')}x"):
            assert (await start(http, free, headers=bearer(KEY))).status_code == 202


async def test_only_the_allowed_hosts_are_accepted(store: Store, valkey_url: str) -> None:
    named = {"allowed_hosts": "talk.example, *.apps.example"}
    for number, more in enumerate(({"open_access": True}, {}, {"api_keys": KEY})):
        async with serve(create(settings(valkey_url, **named, **more))) as http:
            for n, host in enumerate(("talk.example", "TALK.example:8443", "a.apps.example", "localhost", "[::1]:80")):
                answer = await start(http, f"user-{number}-{n}", headers={"Host": host})
                assert answer.status_code == (401 if "api_keys" in more else 202), host
            for host in ("evil.example", "apps.example", "talk.example.evil.example", "xtalk.example", "10.0.0.1", ""):
                for headers in ({}, bearer("cs_x")):
                    answer = await start(http, "eve", headers={"Host": host} | headers)
                    assert answer.status_code in ({401, 403} if "api_keys" in more else {403}), host
            # A request with the key is not from a foreign page, so any Host is allowed: scrapers use addresses.
            assert (await http.get("/metrics", headers=ADMIN | {"Host": "10.0.0.1"})).status_code == 200


async def test_attempts_with_wrong_secrets_are_limited(store: Store, valkey_url: str) -> None:
    app = create(settings(valkey_url, api_keys=KEY, trusted_proxy="10.0.0.0/8"))
    async with serve(app) as http:

        async def tried(address: str, secret: str) -> httpx.Response:
            return await http.get("/api/sessions", headers=bearer(secret) | {"X-Forwarded-For": address})

        codes = [(await tried(f"198.51.100.1:{n}", f"guess-{n}")).status_code for n in range(MOST + 5)]
        assert codes == [401] * MOST + [429] * 5
        locked = await tried("198.51.100.1", "a-token-for-tests")
        assert is_problem(locked, 429, "too_many_attempts")["retryAfter"] > 0
        assert locked.headers["Retry-After"]
        assert (await tried("198.51.100.2", "a-token-for-tests")).status_code == 200
        # After a right secret, wrong ones from the same address do not lock it out, nor the node's own drain program.
        for n in range(MOST + 5):
            assert (await tried("198.51.100.2", f"guess-{n}")).status_code == 401
            assert (await tried("127.0.0.1", f"guess-{n}")).status_code in {401, 429}
        for address in ("198.51.100.2", "127.0.0.1"):
            assert (await tried(address, "a-token-for-tests")).status_code == 200
        prefixes = itertools.cycle(range(65536))
        codes = [(await tried(f"2001:db8:1:{next(prefixes):x}::1", f"guess-{n}")).status_code for n in range(MOST + 1)]
        assert codes[-1] == 429, "a /48 network counts as one address"


def tally(answers: list[httpx.Response]) -> list[int]:
    return sorted(answer.status_code for answer in answers)


async def test_one_address_gets_a_limited_number_of_sessions_and_queue_places(store: Store, valkey_url: str) -> None:
    caps = {"sessions_per_address": 4, "waiting_per_address": 2, "max_sessions": 6, "trusted_proxy": "10.0.0.0/8"}
    async with serve(create(settings(valkey_url, **caps))) as http:

        async def from_(address: str, user: str, **headers: str) -> httpx.Response:
            return await start(http, user, headers={"X-Forwarded-For": address} | headers)

        # Concurrent starts, each from another port: the check and the count are atomic.
        answers = await asyncio.gather(*(from_(f"198.51.100.1:{n}", f"a{n}") for n in range(20)))
        assert tally(answers) == [202] * 4 + [429] * 16
        refused = next(answer for answer in answers if answer.status_code == 429)
        is_problem(refused, 429, "too_many_sessions")
        for n in range(2):
            assert (await from_("198.51.100.2", f"b{n}")).json()["status"] == "starting"
        # No session is free: two sessions of an address may wait, whatever other sessions it has.
        waiting = [await from_("198.51.100.3", f"c{n}") for n in range(4)]
        assert [answer.status_code for answer in waiting] == [202, 202, 429, 429]
        assert is_problem(waiting[3], 429, "too_many_sessions")["detail"]
        # A cancelled session's place is free again. Sessions of the operator and of a backend do not count.
        assert (await http.post("/api/session/stop", json={"sessionId": waiting[0].json()["sessionId"]})).is_success
        assert (await from_("198.51.100.3", "c9")).status_code == 202
        for n in range(3):
            assert (await from_("198.51.100.3", f"d{n}", **ADMIN)).status_code == 202
    async with serve(create(settings(valkey_url, **caps, api_keys=KEY))) as http:
        answers = [await from_("198.51.100.1", f"e{n}", **bearer(KEY)) for n in range(6)]
        assert tally(answers) == [202] * 6


async def test_an_ipv6_network_counts_as_a_few_addresses(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    caps = {"sessions_per_address": 2, "waiting_per_address": 0, "trusted_proxy": "10.0.0.0/8", "rate_limit": "5/day"}
    async with serve(create(settings(valkey_url, **caps))) as http:

        async def from_(address: str, user: str) -> httpx.Response:
            return await start(http, user, headers={"X-Forwarded-For": address})

        answers = [await from_(f"2001:db8:1:{n:x}::1", f"a{n}") for n in range(12)]
        assert tally(answers) == [202] * 8 + [429] * 4, "the limit of a /48 is four times that of a /64"
        for answer in answers:
            if answer.is_success:
                await http.post("/api/session/stop", json={"sessionId": answer.json()["sessionId"]})
        assert raw.keys("address:sessions:*") == []
        more = [await from_(f"2001:db8:1:{n:x}::1", f"b{n}") for n in range(0x100, 0x120)]
        assert sum(answer.is_success for answer in more) == 8, "12 of 20 starts a day were used"
        codes = {answer.json().get("code") for answer in more[9:]}
        assert codes <= {"too_many_sessions", "rate_limited"}
        # A flood from one /64 takes nothing from its neighbours beyond its own limit.
        flood = [await from_(f"2001:db8:2:1::{n:x}", f"c{n}") for n in range(40)]
        assert sum(answer.is_success for answer in flood) == 2
        assert (await from_("2001:db8:2:2::1", "neighbour")).status_code == 202


async def test_dispatched_calls_count_for_the_address_that_got_the_token(store: Store, valkey_url: str) -> None:
    await warm(store, valkey_url, 4)
    async with serve(create(settings(valkey_url))) as http:
        rooms = [(await http.post("/api/token", json={})).json()["room_name"] for _ in range(3)]
        caps = {"per_address": 2, "waiting_per_address": 2}
        outcomes = []
        for n, room in enumerate(rooms):
            job = DispatchRef(f"AJ_{n}", "AD", "n1")
            outcomes.append((await assign(store, f"user-{n}", room_name=room, job=job, **caps)).outcome)
        assert outcomes == ["assigned", "assigned", "many"]
        elsewhere = await assign(store, "room:line", room_name="line", job=DispatchRef("AJ_9", "AD", "n1"), **caps)
        assert elsewhere.outcome == "assigned", "a phone call has no address, so no limit applies"


async def test_no_token_for_a_new_room_is_issued_while_no_agent_is_available(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    async with serve(create(settings(valkey_url, max_sessions=1))) as http:
        assert (await http.post("/api/token", json={})).status_code == 201
        begun = (await start(http, "ada")).json()
        full = await http.post("/api/token", json={})
        is_problem(full, 429, "at_capacity")
        assert full.headers["Retry-After"]
        mine = await http.post("/api/token", json={"sessionId": begun["sessionId"]})
        assert mine.status_code == 201, "a caller with a session can join it"
        await http.post("/api/session/stop", json={"sessionId": begun["sessionId"]})
        raw.set("livekit:down", "LiveKit does not answer")
        is_problem(await http.post("/api/token", json={}), 503, "livekit_unavailable")


class FakeRooms:
    """Replaces LiveKit's room service: all users have joined."""

    def __init__(self, names: set[str], served: set[str]) -> None:
        self.names, self.served, self.deleted = names, served, set[str]()

    async def existing(self, names: Any) -> set[str]:
        return self.names & set(names)

    async def present(self, room: str) -> tuple[str, bool]:
        return "there", room in self.served

    async def delete(self, room: str) -> None:
        self.deleted.add(room)


async def test_rooms_with_users_and_without_an_agent_are_deleted(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 1)
    alone, empty, ours, others = [new_id("room") for _ in range(4)]
    for room in (alone, empty, ours, others):
        await store.room_asked_for(room)
    assert (await assign(store, "user-1", room_name=ours, job=DispatchRef("AJ_1", "AD", "n1"))).outcome == "assigned"
    rooms = FakeRooms({alone, ours, others, "not-ours"}, {others})
    reconciler = Reconciler(store, rooms, 60)  # type: ignore[arg-type]
    await reconciler._close_unserved()
    assert rooms.deleted == set(), "LiveKit may still be requesting an agent"
    for room in (alone, others):
        raw.hincrbyfloat(f"room:asker:{room}", "seen", -UNSERVED_SECONDS - 1)
    await reconciler._close_unserved()
    assert rooms.deleted == {alone}
    assert raw.zscore("rooms:asked_for", ours) is None
