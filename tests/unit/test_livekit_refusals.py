"""LiveKit's refusals: which are temporary, and that they contain LiveKit's own text and no token."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from orchestrator.errors import LiveKitUnavailable
from orchestrator.livekit import refusals
from orchestrator.livekit.agent_worker import WorkerConnection
from orchestrator.livekit.refusals import Refusal
from orchestrator.livekit.rooms import Rooms
from orchestrator.livekit.tokens import agent_identity, user_identity
from tests.support.processes import free_ports
from tests.support.tls import certificates, tls_before

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJkZXZrZXkifQ.sAMmO-_4"
#: The errors of LiveKit 1.13 and its SDK, by cause.
NO_ROOM = "engine: signal failure: client error: 404 Not Found - requested room does not exist"
SIGNATURE = (
    f"engine: signal failure: client error: 401 Unauthorized - invalid token: {TOKEN}, "
    "error: token signature is invalid: signature is invalid"
)
AHEAD = f"invalid token: {TOKEN}, error: token has invalid claims: token is not valid yet"
TOO_LONG = (
    "engine: signal failure: client error: 400 Bad Request - participant identity length exceeds limits: max length 256"
)
AWAY = "engine: signal failure: transport connection error: IO error: Connection refused (os error 111)"


@pytest.mark.parametrize(
    ("said", "no_room", "permanent"),
    [
        (NO_ROOM, True, False), (SIGNATURE, False, True), (TOO_LONG, False, True),
        ("engine: signal failure: client error: 401 Unauthorized - invalid API key: other", False, True),
        ("engine: signal failure: client error: 401 Unauthorized - " + AHEAD, False, True),
        ("engine: signal failure: client error: 401 Unauthorized - permissions denied", False, True),
        ("engine: signal failure: client error: 404 Not Found - 404 page not found", False, False),
        ("engine: signal failure: client error: 404 Not Found", False, False),
        ("engine: signal failure: client error: 403 Forbidden - <html>nginx</html>", False, False),
        ("engine: signal failure: client error: 429 Too Many Requests - slow down", False, False),
        ("engine: signal failure: server error: 503 Service Unavailable", False, False),
    ],
)  # fmt: skip
def test_permanent_refusals_are_recognised(said: str, no_room: bool, permanent: bool) -> None:
    refusal = Refusal.read(RuntimeError(said))
    assert (refusal is not None and refusal.no_room, refusal is not None and refusal.permanent) == (no_room, permanent)


def test_an_unavailable_livekit_is_no_refusal() -> None:
    assert Refusal.read(RuntimeError(AWAY)) is None
    assert Refusal.read(TimeoutError()) is None


def test_a_refusal_has_livekits_text_without_the_token() -> None:
    refusal = Refusal.read(RuntimeError(SIGNATURE))
    assert refusal is not None
    assert refusal.words.startswith("invalid token: (token), error: token signature is invalid")
    assert "LIVEKIT_API_SECRET" in refusal.words
    assert "eyJ" not in refusal.words
    assert len(refusals.readable("x" * 5000)) == refusals.MAX_CHARACTERS
    assert refusals.readable("a\nb\r\n c") == "a b c"


def test_the_clock_skew_is_computed_from_the_date_header() -> None:
    now = time.time()
    assert refusals.skew(formatdate(now - 90, usegmt=True), now) == pytest.approx(90, abs=1)
    assert refusals.skew(formatdate(now + 90, usegmt=True), now) == pytest.approx(-90, abs=1)
    assert refusals.skew(None, now) == refusals.skew("yesterday", now) == 0
    assert refusals.describe_skew(50) == refusals.describe_skew(-50) == ""
    assert "90 s ahead of LiveKit's (clock skew)" in refusals.describe_skew(90)
    assert "90 s behind LiveKit's (clock skew)" in refusals.describe_skew(-90)


Answer = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]


@asynccontextmanager
async def answering(status: int, body: str, ahead: float = 0) -> AsyncIterator[str]:
    """A LiveKit with the same answer to all requests; our clock is `ahead` of its. Yields its address."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, headers={"Date": formatdate(time.time() - ahead, usegmt=True)})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "ahead", "expected"),
    [
        (200, "{}", 0, None), (200, "{}", 50, None), (200, "{}", -300, None),
        (401, "invalid API key: other", 0, ["LiveKit refuses: invalid API key: other", "LIVEKIT_API_KEY"]),
        (401, AHEAD, 90, ["token is not valid yet", "s ahead of LiveKit's (clock skew)"]),
        (401, f"invalid token: {TOKEN}, error: token signature is invalid", 0, ["LIVEKIT_API_SECRET"]),
        (200, "{}", -1000, ["every user", "s behind LiveKit's (clock skew)"]),
        (401, "", 90, ["it answers 401", "s ahead of LiveKit's (clock skew)"]),
        (502, "<html>bad gateway</html>", 0, ["LiveKit refuses", "bad gateway"]),
        (500, "", 0, ["LiveKit refuses", "it answers 500"]),
        (200, "<html>sign in</html>", 0, ["LiveKit does not answer", "something else does", "sign in"]),
        (200, "", 0, ["LiveKit does not answer", "something else does"]),
    ],
)  # fmt: skip
async def test_the_operator_gets_livekits_own_text(
    status: int, body: str, ahead: float, expected: list[str] | None
) -> None:
    async with answering(status, body, ahead) as url, Rooms(url, "key", "s" * 40) as rooms:
        trouble = await rooms.reachable()
    if expected is None:
        assert trouble is None
        return
    assert trouble is not None
    assert "eyJ" not in trouble
    for words in expected:
        assert words in trouble


async def asked(rooms: Rooms) -> None:
    """Send all requests to a room service: each reports that LiveKit is down, and none returns a result."""
    for ask in (rooms.delete("r"), rooms.leave("r"), rooms.existing(["r"]), rooms.present("r"), rooms.create("r")):
        with pytest.raises(LiveKitUnavailable):
            await ask


@pytest.mark.parametrize(
    ("status", "body"), [(500, ""), (502, "<html>bad gateway</html>"), (503, "{}"), (200, "<html>sign in</html>")]
)
async def test_an_answer_that_is_not_livekits_counts_as_unavailable(status: int, body: str) -> None:
    async with answering(status, body) as url, Rooms(url, "key", "s" * 40) as rooms:
        await asked(rooms)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_livekit_that_is_down_or_without_tls_is_reported_as_not_answering(scheme: str) -> None:
    async with answering(200, "{}") as url:
        address = url.replace("ws:", "wss:")  # the server has no TLS
        if scheme == "ws":
            address = f"ws://127.0.0.1:{free_ports()}"
        async with Rooms(address, "key", "s" * 40) as rooms:
            assert "LiveKit does not answer" in str(await rooms.reachable())
            await asked(rooms)


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example", "nobody.invalid"])
async def test_a_livekit_with_an_invalid_host_is_reported_as_not_answering(name: str) -> None:
    async with Rooms(f"ws://{name}:7880", "key", "s" * 40) as rooms:
        assert "LiveKit does not answer" in str(await rooms.reachable())
        await asked(rooms)


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[int]:
    """The port of a server with an untrusted certificate."""
    _, certificate, key = certificates(tmp_path)
    with tls_before(free_ports(), certificate, key) as port:
        yield port


@pytest.mark.thorough
async def test_an_untrusted_certificate_of_livekit_counts_as_unavailable(untrusted: int) -> None:
    async with Rooms(f"wss://localhost:{untrusted}", "key", "s" * 40) as rooms:
        assert "certificate" in str(await rooms.reachable()).lower()
        await asked(rooms)


@pytest.mark.parametrize(
    ("status", "body", "ahead", "expected"),
    [
        (401, "invalid API key: other", 0, ["LiveKit answered 401 at /agent: invalid API key: other"]),
        (401, AHEAD, 90, ["token is not valid yet", "s ahead of LiveKit's (clock skew)"]),
        (401, "", 0, ["401 at /agent: the key pair is refused"]),
        (404, "404 page not found", 0, ["404 at /agent: 404 page not found"]),
    ],
)
async def test_a_refused_registration_contains_the_reason(
    status: int, body: str, ahead: float, expected: list[str]
) -> None:
    async with answering(status, body, ahead) as url:
        door = WorkerConnection(url, "key", "s" * 40, "voice-agent", handler=None)  # type: ignore[arg-type]
        running = asyncio.create_task(door.run())
        async with asyncio.timeout(60):
            while not door.registration.error:  # noqa: ASYNC110 - the worker has no event for it
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert "eyJ" not in door.registration.error
    for words in expected:
        assert words in door.registration.error


@pytest.mark.parametrize("room", ["room_1", "r" * 255, "r" * 256, "ü" * 128, "x" + "ü" * 127, "房" * 85])
def test_identities_stay_within_livekits_limit(room: str) -> None:
    other = room[:-1] + "z"
    for identity in (agent_identity, user_identity):
        assert len(identity(room).encode()) <= 256
        assert identity(room) == identity(room)
        assert identity(room) != identity(other)
    assert agent_identity("room_1") == "agent-room_1"
    assert user_identity("room_1") == "user-1"
