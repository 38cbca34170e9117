"""What each program of a node may know: one table, from which its environment is made.

A program sees what all of them share (the settings that are no secrets, and what the system and the libraries need)
and its own secrets. supervisord's environment has none: `orchestrator up` hands them over in a file without a name, and
each program gets its own when it is started.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from typing import get_args

from pydantic import SecretStr

from orchestrator.host.spawn import for_agents
from orchestrator.settings import CHECKED, NodeSettings, Settings

#: Says which descriptor holds the secrets of the programs.
HANDED = "NODE_SECRETS"

_REDIS = frozenset({"REDIS_URL"})
_LIVEKIT = frozenset({"LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"})
#: They may hold a password, and only who goes out into the world needs one.
_PROXIES = frozenset(f"{kind}_PROXY" for kind in ("HTTP", "HTTPS", "ALL", "NO"))
PROXIES = _PROXIES | {name.lower() for name in _PROXIES}

#: The secrets that each program needs: those of supervisord.conf, and what `up` starts beside them.
NEEDS: Mapping[str, frozenset[str]] = {
    "valkey": frozenset(),  # its password is in RUN_DIR/valkey.conf
    "livekit": frozenset(),  # its key pair is in RUN_DIR/livekit.yaml
    "host": _REDIS,  # and what is for agents: `for_agents`
    "worker": _REDIS | _LIVEKIT | PROXIES | {"ALERT_WEBHOOK_URL", "ALERT_WEBHOOK_SECRET"},
    "beat": _REDIS,
    "api": _REDIS | _LIVEKIT | PROXIES | {"ADMIN_TOKEN", "API_KEYS"},
    "drain": frozenset({"ADMIN_TOKEN"}),
    "announce": _REDIS | {"ADMIN_TOKEN"},
}
HOST = "host"


def _holds_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_holds_secret(part) for part in get_args(annotation))


#: The settings that no program has unless the table says so: the address of Redis has its password in it.
SECRETS = (
    frozenset(name.upper() for name, field in Settings.model_fields.items() if _holds_secret(field.annotation))
    | _REDIS
    | _LIVEKIT
)
#: What `orchestrator up` tells its programs beside the settings.
_TOLD = frozenset(
    "PYTHON DRAIN_STOP_SECONDS EMBEDDED_VALKEY VALKEY_SERVER VALKEY_CONF EMBEDDED_LIVEKIT LIVEKIT_SERVER".split()
) | {CHECKED}
#: What the system and the libraries read. Nothing else reaches a program: nobody knows what it is.
_SYSTEM = frozenset(
    "PATH HOME USER LOGNAME SHELL PWD HOSTNAME LANG LANGUAGE TZ TZDIR TMPDIR TERM COLORTERM COLUMNS LINES NO_COLOR "
    "FORCE_COLOR VIRTUAL_ENV SSL_CERT_FILE SSL_CERT_DIR HOSTALIASES LOCALDOMAIN RES_OPTIONS FAULTS FAULT_LOG".split()
)
_FAMILIES = ("LC_", "LD_", "DYLD_", "XDG_", "PYTHON", "GLIBC_", "MALLOC_", "OPENSSL_", "OPENBLAS_", "OMP_", "ORT_",
             "RAILWAY_", "KUBERNETES_")  # fmt: skip
#: A platform's variable may be a secret all the same.
_TELLING = frozenset("TOKEN SECRET KEY KEYS PASSWORD CREDENTIALS AUTH".split())


def shared(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what every program of a node may see. A setting's name counts in any case, as it does to pydantic."""
    settings = {name.upper() for name in Settings.model_fields} - SECRETS

    def is_shared(name: str) -> bool:
        if name.startswith(_FAMILIES):
            return _TELLING.isdisjoint(name.upper().split("_"))
        return name in _SYSTEM or name in _TOLD or name.upper() in settings

    return {name: value for name, value in environment.items() if is_shared(name)}


def secrets_of(program: str, environment: Mapping[str, str], settings: NodeSettings) -> dict[str, str]:
    """Return what a program sees beside what is shared. Nothing that is not for agents is for their host, whatever
    AGENT_ENV says."""
    # guard: program-secrets
    wanted = set(NEEDS[program])
    if program == HOST:
        wanted |= {name for name in for_agents(settings) if name.upper() not in SECRETS}
    return {name: value for name, value in environment.items() if name in wanted}


def environment_of(program: str, environment: Mapping[str, str], settings: NodeSettings) -> dict[str, str]:
    """Return all that a program sees."""
    return shared(environment) | secrets_of(program, environment, settings)


def hand_over(environment: Mapping[str, str], settings: NodeSettings) -> dict[str, str]:
    """Return the environment for the supervisord that this process becomes, which finds the secrets by it."""
    found = {program: secrets_of(program, environment, settings) for program in NEEDS}
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("secrets")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.set_inheritable(descriptor, True)
    with os.fdopen(descriptor, "w", closefd=False) as file:
        json.dump(found, file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    # guard: supervisord-secrets
    return shared(environment) | {HANDED: str(descriptor)}


def received() -> dict[str, dict[str, str]]:
    """Return each program's secrets as `hand_over` has left them, once; nothing where nobody has."""
    if (descriptor := os.environ.pop(HANDED, None)) is None:
        return {}
    with os.fdopen(int(descriptor)) as file:
        found: dict[str, dict[str, str]] = json.load(file)
    return found
