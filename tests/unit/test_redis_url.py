"""REDIS_URL: all providers' forms are parsed by one rule, and an invalid one gets an error of one sentence."""

import random
from pathlib import Path
from urllib.parse import quote

import pytest

from orchestrator.config import redis_url
from orchestrator.config.redis_url import Address

ANYTHING = "a@b:c/d?e#f%g&h=i+j k[l]m;n,o\\p\"q'r~ü€\n"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", Address()),
        ("redis://cache", Address(host="cache")),
        ("redis://cache:6380/3", Address(host="cache", port=6380, db=3)),
        ("redis://cache?db=3", Address(host="cache", db=3)),
        ("redis://cache/3?db=3", Address(host="cache", db=3)),
        ("redis://:pw@cache/", Address(host="cache", password="pw")),
        ("redis://app:p%40%2F@cache", Address(host="cache", username="app", password="p@/")),
        ("redis://app:p;,w@cache", Address(host="cache", username="app", password="p;,w")),
        ("redis://[::1]:7000/1", Address(host="::1", port=7000, db=1)),
        (" redis://cache \n", Address(host="cache")),
        ("REDISS://Cache:25061", Address(host="cache", port=25061, tls=True)),
        ("valkeys://default:pw@cache:1", Address(host="cache", port=1, username="default", password="pw", tls=True)),
        ("rediss://cache?ssl_cert_reqs=required", Address(host="cache", tls=True)),
        ("rediss://cache?ssl_cert_reqs=CERT_REQUIRED", Address(host="cache", tls=True)),
        ("rediss://cache?ssl_cert_reqs=CERT_NONE", Address(host="cache", tls=True, verify=False)),
        ("unix:///run/v.sock", Address(path="/run/v.sock")),
        ("unix:///run/v.sock?db=2", Address(path="/run/v.sock", db=2)),
        ("unix://app:p%3Aw@/run/v.sock", Address(path="/run/v.sock", username="app", password="p:w")),
        ("unix:///v.sock?password=a+b%26c", Address(path="/v.sock", password="a+b&c")),
        ("unix:///with%20space/100%25.sock", Address(path="/with space/100%.sock")),
        ("redis+socket:///run/v.sock?virtual_host=2", Address(path="/run/v.sock", db=2)),
        ("redis+socket://:pw@/run/v.sock", Address(path="/run/v.sock", password="pw")),
    ],
)  # fmt: skip
def test_a_url_is_parsed(url: str, expected: Address) -> None:
    found = redis_url.parse(url)
    assert found == expected
    assert redis_url.parse(found.url) == found, "the normalised URL has the same meaning"


def test_a_relative_socket_path_is_resolved_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert redis_url.parse("unix://v.sock").path == str(tmp_path / "v.sock")


def test_user_and_password_may_contain_any_character() -> None:
    for seed in range(200):
        user, password = ("".join(random.Random(seed + n).sample(ANYTHING, len(ANYTHING))) for n in (0, 1000))
        for form in ("redis://{}@cache:1/2", "rediss://{}@cache", "unix://{}@/v.sock?db=1"):
            found = redis_url.parse(form.format(f"{quote(user, safe='')}:{quote(password, safe='')}"))
            assert (found.username, found.password) == (user, password)
            assert redis_url.parse(found.url) == found


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("cache:6379", "write it as redis://"),
        ("http://cache", "write it as redis://"),
        ("unix:/run/v.sock", "unix:///PATH"),
        ("redis://:sec/ret@cache", "its port cannot be read: in a password write / as %2F"),
        ("redis://:sec#ret@cache", "# as %23"),
        ("redis://:sec?ret@cache", "? as %3F"),
        ("redis://:sec]ret@cache", "] as %5D"),
        ("redis://:%FFsecret@cache", "not UTF-8"),
        ("redis://cache:0", "port 0"),
        ("redis://cache:70000", "port cannot be read"),
        ("redis://cache/live", "database is no number"),
        ("redis://cache/-1", "database is no number"),
        ("redis://cache/0/1", "database is no number"),
        ("redis://cache/1?db=2", "two databases"),
        ("redis://cache?db=1&db=1", "twice"),
        ("redis://cache?protocol=2", "unknown parameter"),
        ("redis://cache?ssl_cert_reqs=required", "write rediss://"),
        ("unix:///v.sock?ssl_ca_certs=/x", "write rediss://"),
        ("rediss://cache?ssl_cert_reqs=optional", "required (the default) or none"),
        ("rediss://cache?ssl_cert_reqs=", "required (the default) or none"),
        ("rediss://cache?ssl_check_hostname=false", "ssl_check_hostname=false is refused"),
        ("rediss://cache?ssl_ca_certs=/no/such.pem", "/no/such.pem is not there"),
        ("unix://", "names no socket"),
        ("redis://%2Ftmp%2Fv.sock", "unix:///PATH"),
        ("sentinel://a:26379;sentinel://b:26379/0", "Sentinel is not supported"),
        ("redis+sentinel://a:26379/mymaster/0", "Sentinel is not supported"),
        ("redis-sentinel://a:26379", "Sentinel is not supported"),
        ("redis://a:26379?master_name=mymaster", "Sentinel is not supported"),
        ("redis://a:1,b:2/0", "names several servers"),
        ("redis-cluster://a:1", "a cluster is not supported"),
    ],
)
def test_the_error_for_an_invalid_url_hides_the_password(url: str, told: str) -> None:
    with pytest.raises(ValueError) as failure:  # noqa: PT011 - its text is checked
        redis_url.parse(url)
    assert told in str(failure.value)
    assert "sec" not in str(failure.value).replace("second", "")


def test_printed_forms_hide_the_password() -> None:
    for url in ("rediss://app:secret@cache:1/2", "unix://app:secret@/v.sock"):
        found = redis_url.parse(url)
        assert "secret" not in f"{found} {found!r}"
    assert str(redis_url.parse("rediss://app:secret@cache:1/2")) == "rediss://cache:1/2"
    assert str(redis_url.parse("unix://app:secret@/v.sock")) == "unix:///v.sock?db=0"


def test_two_certificate_authorities_are_refused_and_one_is_kept(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.pem", tmp_path / "other.pem"
    mine.touch()
    other.touch()
    assert redis_url.parse("rediss://cache", ca_file=mine).ca_file == str(mine)
    assert redis_url.parse(f"rediss://cache?ssl_ca_certs={mine}", ca_file=mine).ca_file == str(mine)
    with pytest.raises(ValueError, match="REDIS_CA_FILE"):
        redis_url.parse(f"rediss://cache?ssl_ca_certs={other}", ca_file=mine)
