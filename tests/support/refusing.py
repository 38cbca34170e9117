"""A real Valkey in each of the conditions in which one does not serve: absent, silent, or answering with errors."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.support.processes import free_ports, poll, start_valkey


@dataclass
class Refusing:
    """One Valkey; `admin` is a connection that stays open while others are closed or refused."""

    process: "subprocess.Popen[bytes]"
    port: int
    folder: Path
    password: str = ""

    def __post_init__(self) -> None:
        self.url = f"redis://{self.password and f':{self.password}@'}127.0.0.1:{self.port}/0"
        self.admin = redis.Redis.from_url(self.url, decode_responses=True, single_connection_client=True)

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path, password: str = "") -> Iterator["Refusing"]:
        """Run one."""
        port = free_ports()
        found = cls(start_valkey(folder, port, "--requirepass", password), port, folder, password)
        try:
            yield found
        finally:
            found.admin.close()
            found.process.kill()  # it may be stopped (SIGSTOP), or unable to save before it exits
            found.process.wait()

    def drop_others(self) -> None:
        """Close every connection but `admin`, so that all clients must reconnect."""
        self.admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def set(self, name: str, value: object) -> None:
        """Set one of its settings."""
        self.admin.config_set(name, value)

    # Each causes one condition on entry and removes it on exit

    @contextlib.contextmanager
    def read_only(self) -> Iterator[str]:
        self.admin.replicaof("127.0.0.1", 1)
        yield "READONLY"
        self.admin.replicaof("NO", "ONE")

    @contextlib.contextmanager
    def full(self) -> Iterator[str]:
        self.set("maxmemory", 1)
        yield "OOM"
        self.set("maxmemory", 0)

    @contextlib.contextmanager
    def unable_to_save(self) -> Iterator[str]:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.set("stop-writes-on-bgsave-error", "yes")
        self.set("save", "3600 1000000")
        with contextlib.suppress(redis.ResponseError):  # a save may be running already
            self.admin.bgsave()
        poll(lambda: self.admin.info("persistence")["rdb_last_bgsave_status"] == "err", "saving has failed")
        yield "MISCONF"
        self.set("stop-writes-on-bgsave-error", "no")
        self.set("save", "")

    @contextlib.contextmanager
    def busy(self) -> Iterator[str]:
        self.set("busy-reply-threshold", 10)

        def run() -> None:
            with redis.Redis(port=self.port) as other, contextlib.suppress(redis.RedisError):
                other.eval("while true do end", 0)

        looping = threading.Thread(target=run)
        looping.start()
        poll(self._is_busy, "the script runs")
        yield "BUSY"
        self.admin.execute_command("SCRIPT", "KILL")
        looping.join()

    def _is_busy(self) -> bool:
        try:
            self.admin.ping()
        except redis.ResponseError as failure:
            return "BUSY" in str(failure)
        return False

    @contextlib.contextmanager
    def without_replicas(self) -> Iterator[str]:
        self.set("min-replicas-to-write", 1)
        yield "NOREPLICAS"
        self.set("min-replicas-to-write", 0)

    @contextlib.contextmanager
    def wanting_a_password(self) -> Iterator[str]:
        self.set("requirepass", "secret")
        self.drop_others()
        yield "WRONGPASS" if self.password else "NOAUTH"
        self.set("requirepass", self.password)

    @contextlib.contextmanager
    def without_permission(self) -> Iterator[str]:
        self.admin.acl_setuser("default", enabled=True, categories=["-@all"], commands=["+acl", "+client"])
        yield "NOPERM"
        self.admin.execute_command("ACL", "SETUSER", "default", "+@all")

    @contextlib.contextmanager
    def out_of_connections(self) -> Iterator[str]:
        self.set("maxclients", 1)
        self.drop_others()
        yield "max number of clients"
        self.set("maxclients", 1000)

    @contextlib.contextmanager
    def silent(self) -> Iterator[str]:
        os.kill(self.process.pid, signal.SIGSTOP)
        yield "does not answer"
        os.kill(self.process.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def loading(self) -> Iterator[str]:
        self.folder.mkdir(exist_ok=True)
        # While loading, it answers clients after every KiB that it has read.
        filler = {f"filler:{number}": os.urandom(1024) for number in range(1000)}
        self.admin.mset(filler)
        self.admin.save()
        self.process.kill()
        self.process.wait()
        self.process = start_valkey(
            self.folder, self.port, "--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"
        )
        self._connect_again()
        yield "LOADING"
        self.set("key-load-delay", 0)

        def loaded() -> bool:
            with contextlib.suppress(redis.BusyLoadingError):
                return bool(self.admin.unlink(*filler))
            return False

        poll(loaded, "it has loaded")
        (self.folder / "dump.rdb").unlink()

    def _connect_again(self) -> None:
        self.admin.close()
        self.admin = redis.Redis.from_url(self.url, decode_responses=True, single_connection_client=True)

    @contextlib.contextmanager
    def gone(self) -> Iterator[str]:
        self.process.kill()
        self.process.wait()
        yield "does not answer"
        self.folder.mkdir(exist_ok=True)
        self.process = start_valkey(self.folder, self.port)
        self._connect_again()


Hurt = Callable[[Refusing], contextlib.AbstractContextManager[str]]

#: Conditions in which nothing can be written but most things can be read.
NO_WRITES: list[Hurt] = [Refusing.read_only, Refusing.full, Refusing.unable_to_save, Refusing.without_replicas]
#: Conditions in which nothing works.
NOTHING: list[Hurt] = [
    Refusing.busy, Refusing.wanting_a_password, Refusing.without_permission, Refusing.out_of_connections,
    Refusing.silent, Refusing.gone, Refusing.loading,
]  # fmt: skip
ALL = NO_WRITES + NOTHING
