"""The environment of each program of a node: one table says which secrets it gets.

Every program gets the variables that all of them share (settings that are no secrets, and what the system and the
libraries need) and its own secrets. supervisord's environment has no secrets: `orchestrator up` passes them in an
unnamed file, and each program gets its own when it is started.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from typing import get_args

from pydantic import SecretStr

from orchestrator.host.spawn import for_agents
from orchestrator.machine.redaction import is_secret_name
from orchestrator.settings import CHECKED, NodeSettings, Settings

#: The variable with the descriptor of the file of secrets.
HANDED = "NODE_SECRETS"

_REDIS = frozenset({"REDIS_URL"})
_LIVEKIT = frozenset({"LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"})
#: They may contain a password, and only programs that connect to other hosts need them.
_PROXIES = frozenset(f"{kind}_PROXY" for kind in ("HTTP", "HTTPS", "ALL", "NO"))
PROXIES = _PROXIES | {name.lower() for name in _PROXIES}

#: The secrets that each program needs: the programs of supervisord.conf, and what `up` itself starts.
NEEDS: Mapping[str, frozenset[str]] = {
    "valkey": frozenset(),  # its password is in RUN_DIR/valkey.conf
    "livekit": frozenset(),  # its key pair is in RUN_DIR/livekit.yaml
    "relay": _REDIS,
    "host": frozenset(),  # but the variables of its agents: `for_agents`
    "worker": _REDIS | _LIVEKIT | PROXIES | {"ALERT_WEBHOOK_URL", "ALERT_WEBHOOK_SECRET"},
    "beat": _REDIS,
    "api": _REDIS | _LIVEKIT | PROXIES | {"ADMIN_TOKEN", "API_KEYS"},
    "drain": frozenset({"ADMIN_TOKEN"}),
    "announce": _REDIS | {"ADMIN_TOKEN"},
}
HOST = "host"


def _holds_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_holds_secret(part) for part in get_args(annotation))


#: Settings that a program gets only if the table says so. The address of Redis contains its password.
SECRETS = (
    frozenset(name.upper() for name, field in Settings.model_fields.items() if _holds_secret(field.annotation))
    | _REDIS
    | _LIVEKIT
)
#: Variables that `orchestrator up` sets in addition to the settings.
_SET_BY_UP = frozenset(
    "PYTHON DRAIN_STOP_SECONDS EMBEDDED_VALKEY VALKEY_SERVER VALKEY_CONF EMBEDDED_LIVEKIT LIVEKIT_SERVER".split()
) | {CHECKED}
#: Variables of the system and of libraries. No other variable reaches a program, because it might be a secret.
_SYSTEM = frozenset(
    "PATH HOME USER LOGNAME SHELL PWD HOSTNAME LANG LANGUAGE TZ TZDIR TMPDIR TERM COLORTERM COLUMNS LINES NO_COLOR "
    "FORCE_COLOR VIRTUAL_ENV SSL_CERT_FILE SSL_CERT_DIR HOSTALIASES LOCALDOMAIN RES_OPTIONS FAULTS FAULT_LOG".split()
)
_FAMILIES = ("LC_", "LD_", "DYLD_", "XDG_", "PYTHON", "GLIBC_", "MALLOC_", "OPENSSL_", "OPENBLAS_", "OMP_", "ORT_",
             "RAILWAY_", "KUBERNETES_")  # fmt: skip


def shared(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that every program may see. As in pydantic, a setting's name may have any case."""
    settings = {name.upper() for name in Settings.model_fields} - SECRETS

    def is_shared(name: str) -> bool:
        if name.startswith(_FAMILIES):
            return not is_secret_name(name)
        return name in _SYSTEM or name in _SET_BY_UP or name.upper() in settings

    return {name: value for name, value in environment.items() if is_shared(name)}


def secrets_of(program: str, environment: Mapping[str, str], settings: NodeSettings) -> dict[str, str]:
    """Return the variables that only this program gets. The agent host gets what its agents may see,
    provider keys included. It gets no secret of the settings, even if AGENT_ENV names it."""
    # guard: program-secrets
    names = set(NEEDS[program])
    if program == HOST:
        names |= {name for name in for_agents(settings) if name.upper() not in SECRETS}
    return {name: value for name, value in environment.items() if name in names}


def environment_of(program: str, environment: Mapping[str, str], settings: NodeSettings) -> dict[str, str]:
    """Return the whole environment of a program."""
    return shared(environment) | secrets_of(program, environment, settings)


def hand_over(environment: Mapping[str, str], settings: NodeSettings) -> dict[str, str]:
    """Return the environment of the supervisord that this process becomes, with the descriptor of the secrets."""
    secrets = {program: secrets_of(program, environment, settings) for program in NEEDS}
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("secrets")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.set_inheritable(descriptor, True)
    with os.fdopen(descriptor, "w", closefd=False) as file:
        json.dump(secrets, file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    # guard: supervisord-secrets
    return shared(environment) | {HANDED: str(descriptor)}


def received() -> dict[str, dict[str, str]]:
    """Return each program's secrets from `hand_over`. They can be read once; without a file there are none."""
    if (descriptor := os.environ.pop(HANDED, None)) is None:
        return {}
    with os.fdopen(int(descriptor)) as file:
        secrets: dict[str, dict[str, str]] = json.load(file)
    return secrets
