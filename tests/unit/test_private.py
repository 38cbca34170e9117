"""The node's folder: files that other users could have created are refused, with their name and a remedy."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli import doctor
from orchestrator.errors import Preflight
from orchestrator.machine import private
from orchestrator.node import livekit_server
from orchestrator.node.api_client import admin_token
from orchestrator.node.secrets import generated
from orchestrator.settings import Settings
from tests.support.processes import free_ports

SOMEBODY = 65534
MADE = {"ADMIN_TOKEN": "planted-of-16-and-more", "VALKEY_PASSWORD": "planted-too"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to somebody else")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder in which a node has run."""
    folder = tmp_path / "run"
    for name in ("", *private.FOLDERS):
        (folder / name).mkdir(mode=0o700)
    generated(folder / "secrets.json")
    (folder / "agents" / "prewarm_1.json").write_text("{}")
    return folder


def _give(path: Path) -> None:
    os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)


def _plant(run: Path, mode: int = 0o600) -> Path:
    path = run / "secrets.json"
    path.write_text(json.dumps(MADE))
    path.chmod(mode)
    return path


def _linked(run: Path) -> None:
    elsewhere = run.parent / "elsewhere.json"
    (run / "secrets.json").rename(elsewhere)
    (run / "secrets.json").symlink_to(elsewhere)


def _piped(run: Path) -> None:
    (run / "secrets.json").unlink()
    os.mkfifo(run / "secrets.json", 0o600)


def _dangling(run: Path) -> None:
    (run / "secrets.json").unlink()
    (run / "secrets.json").symlink_to(run.parent / "nothing")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: _plant(run, 0o644), "can be read or written by others (mode 0644): remove it"),
        (lambda run: _plant(run, 0o666), "(mode 0666)"),
        (lambda run: _plant(run, 0o620), "(mode 0620)"),
        (_linked, "is a symbolic link: remove it"),
        (_dangling, "is a symbolic link: remove it"),
        (_piped, "is no regular file: remove it"),
        pytest.param(lambda run: _give(_plant(run)), "belongs to", marks=needs_root),
        pytest.param(lambda run: (_linked(run), _give(run / "secrets.json")), "belongs to", marks=needs_root),
    ],
)  # fmt: skip
def test_a_secrets_file_that_another_user_could_write_is_refused(
    run: Path, change: Callable[[Path], None], told: str
) -> None:
    change(run)
    settings = Settings(run_dir=run)
    for ask in (lambda: generated(settings.secrets_file), lambda: admin_token(settings), lambda: settings.redis):
        with pytest.raises(Preflight) as refused:
            ask()
        assert str(run / "secrets.json") in refused.value.detail
        assert told in refused.value.detail
        assert "planted" not in refused.value.detail
    (*_, finding) = doctor.examine(settings)
    assert (finding.name, finding.ok) == ("folder", False)
    assert told in finding.found


def test_our_own_files_are_read(run: Path) -> None:
    private.check_folder(run)
    assert admin_token(Settings(run_dir=run)) == generated(run / "secrets.json")["ADMIN_TOKEN"]
    assert private.load_or_empty(run / "nothing.json") == {}
    (run / "secrets.json").write_text("[]")
    assert private.load_or_empty(run / "secrets.json") == {}
    with pytest.raises(Preflight, match="cannot be used"):
        generated(run / "secrets.json")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: run.chmod(0o777), r"can be written by others \(mode 0777\).*chmod 700 "),
        (lambda run: run.chmod(0o770), r"can be written by others \(mode 0770\)"),
        (lambda run: run.parent.chmod(0o777), r"can be replaced by others, who may write in .*chmod o-w "),
        (lambda run: (run.chmod(0o755), (run / "agents").chmod(0o777)), r"agents can be written by others"),
        (lambda run: (run.chmod(0o755), (run / "livekit.yaml").touch(), (run / "livekit.yaml").chmod(0o666)),
         r"livekit.yaml can be written by others"),
        *(pytest.param(lambda run, path=path: _give(run / path), r" belongs to .*Do this as ", marks=needs_root)
          for path in ("", "secrets.json", "agents", "logs", "agents/prewarm_1.json")),
        pytest.param(lambda run: ((run / "valkey.sock").symlink_to("/dev/null"), _give(run / "valkey.sock")),
                     r"valkey.sock belongs to ", marks=needs_root),
    ],
)  # fmt: skip
def test_a_folder_that_another_user_could_write_is_refused(
    run: Path, change: Callable[[Path], None], told: str
) -> None:
    change(run)
    with pytest.raises(Preflight, match=told) as refused:
        private.check_folder(run)
    assert "set another RUN_DIR" in refused.value.detail
    assert str(run) in refused.value.detail


@needs_root
def test_a_link_must_belong_to_our_user(run: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(run)
    private.check_folder(link)
    _give(link)
    with pytest.raises(Preflight, match=r"link belongs to "):
        private.check_folder(link)


@pytest.mark.parametrize("mode", [0o1777, 0o3777, 0o755])
def test_a_sticky_folder_is_accepted(run: Path, mode: int) -> None:
    run.chmod(mode)
    private.check_folder(run)
    run.chmod(0o700)
    run.parent.chmod(mode)
    private.check_folder(run)


@needs_root
def test_a_volume_mounted_by_root_is_accepted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes mounts an emptyDir with a mode of 0777, root's, to a container with one user in it."""
    run.chmod(0o2777)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == run)
    private.check_folder(run)
    inside = run / "node"
    inside.mkdir(mode=0o700)
    private.check_folder(inside)
    _give(run)
    with pytest.raises(Preflight, match="belongs to"):
        private.check_folder(run)
    with pytest.raises(Preflight, match="can be replaced by others"):
        private.check_folder(inside)


@pytest.mark.thorough
def test_up_refuses_a_foreign_folder_before_writing_to_it(run: Path) -> None:
    planted = _plant(run).read_text()
    run.chmod(0o777)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    environment |= {"RUN_DIR": str(run), "PORT": str(free_ports()), "FRONTEND_PORT": "0"}
    before = sorted(run.rglob("*"))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "orchestrator"), "up"], env=environment, cwd=run.parent, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"RUN_DIR={run} can be written by others (mode 0777)" in done.stderr
    assert sorted(run.rglob("*")) == before
    assert (run / "secrets.json").read_text() == planted


def test_a_livekit_server_that_another_user_could_write_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server = livekit_server.cached()
    server.parent.mkdir(mode=0o755)
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    assert livekit_server.find() == server
    for path in (server, server.parent):
        path.chmod(0o777)
        with pytest.raises(Preflight, match=r"others may write in it: remove .*XDG_CACHE_HOME"):
            livekit_server.find()
        assert not doctor._livekit(Settings(run_dir=tmp_path), running=False).ok
        path.chmod(0o755)
    if os.geteuid() == 0:
        _give(server)
        with pytest.raises(Preflight, match=r"belongs to "):
            livekit_server.find()
