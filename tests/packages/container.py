"""A container of the image without an engine: crun starts it as a kubelet would have it started.

In come the image's root, a command and what a pod's specification gives it, out come words that start it. The network
is that of who starts it (hostNetwork); processes are its own, the root is read-only, privileges cannot be gained, and
system calls are those that engines allow by default (RuntimeDefault).
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Of podman and buildah; containerd's and Docker's are of the same origin.
SYSTEM_CALLS = Path("/usr/share/containers/seccomp.json")
_PATH = "/opt/rulegen/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# crun takes no mixture of both versions of control groups, which a host may have, and needs none of them here.
_START = (
    'mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec crun --cgroup-manager=disabled --root "$1/state" run -b "$1" "$2"'
)


@dataclass(frozen=True)
class Rights:
    """Of a pod's specification. `volumes`: folders and files of this host by where they are in the container."""

    user: int = 0
    capabilities: Sequence[str] = ()
    volumes: Mapping[str, Path] = field(default_factory=dict)
    read_only: frozenset[str] = frozenset()


def words_of_container(root: Path, bundle: Path, command: Sequence[str], rights: Rights) -> list[str]:
    """What starts the container; its settings are in the folder `bundle` until it has ended."""
    subprocess.run(["crun", "spec", "--bundle", str(bundle)], check=True)
    path = bundle / "config.json"
    settings = json.loads(path.read_text())
    settings["root"] = {"path": str(root), "readonly": True}
    held = {kind: list(rights.capabilities) for kind in ("bounding", "effective", "permitted")}
    settings["process"] = {
        "args": list(command),
        "capabilities": held if rights.user == 0 else {"bounding": held["bounding"]},
        "cwd": "/",
        "env": [f"PATH={_PATH}"],
        "noNewPrivileges": True,
        "user": {"uid": rights.user, "gid": rights.user},
    }
    settings["mounts"] += [_volume(target, source, rights) for target, source in rights.volumes.items()]
    settings["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]})  # noqa: S108
    own = ("pid", "ipc", "uts", "mount")
    settings["linux"]["namespaces"] = [{"type": kind} for kind in own]
    settings["linux"]["seccomp"] = _system_calls(frozenset(rights.capabilities))
    path.write_text(json.dumps(settings))
    unshared = ["unshare", "--mount", "--propagation", "private"]
    return [*unshared, "sh", "-euc", _START, "container", str(bundle), f"rulegen-{bundle.parent.name}-{bundle.name}"]


def _volume(target: str, source: Path, rights: Rights) -> dict[str, Any]:
    access = "ro" if target in rights.read_only else "rw"
    return {"destination": target, "type": "bind", "source": str(source), "options": ["rbind", access]}


def _system_calls(held: frozenset[str]) -> dict[str, Any]:
    """The engines' profile, which says what depends on capabilities and processors, as crun takes it."""
    profile = json.loads(SYSTEM_CALLS.read_text())
    processor = _ARCHITECTURES[platform.machine()]
    rules = [
        {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key)}
        for rule in profile["syscalls"]
        if _holds(rule.get("includes") or {}, held, processor)
        and not held & set((rule.get("excludes") or {}).get("caps", ()))
    ]
    return {"defaultAction": profile["defaultAction"], "defaultErrnoRet": profile["defaultErrnoRet"], "syscalls": rules}


def _holds(condition: dict[str, list[str]], held: frozenset[str], processor: str) -> bool:
    return held >= set(condition.get("caps", ())) and processor in condition.get("arches", (processor,))
