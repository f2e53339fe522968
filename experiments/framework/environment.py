"""What a result depends on besides its settings: versions, source state, device."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve()


def describe() -> dict[str, Any]:
    """Versions and source state; touches no device (see `device`)."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: _version(name) for name in ("jax", "jaxlib", "numpy")},
        "jaxdl": _jaxdl_version(),
        **_git(),
        "device": None,
    }


def device() -> str:
    """Platform, kind and number of JAX's devices, or why there is nothing to say.

    This starts JAX's backend, after which the number of devices and the platform are fixed:
    call it when the experiment has begun to compute, not before.
    """
    jax = sys.modules.get("jax")
    if jax is None:
        return "JAX not used"
    try:
        devices = jax.devices()
    except Exception as error:  # no such platform: the run fails by itself, this only notes it
        return f"no device: {error}"
    return f"{devices[0].platform}: {devices[0].device_kind} × {len(devices)}"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _jaxdl_version() -> str | None:
    # By the import first: a source checkout need not be installed, and an unrelated
    # distribution has the same name.
    version = getattr(sys.modules.get("jaxdl"), "__version__", None)
    if version is None:
        owners = _owners_of_jaxdl()
        version = _version(owners[0]) if owners else None
    return version


@cache  # it looks through all that is installed
def _owners_of_jaxdl() -> list[str]:
    return metadata.packages_distributions().get("jaxdl", [])


def _git() -> dict[str, Any]:
    # Only when this very file is tracked: an installed copy may lie inside somebody else's
    # checkout, whose commit would say nothing about this code.
    if _git_output("ls-files", "--error-unmatch", str(_HERE)) is None:
        return {"commit": None, "dirty": None}
    commit = _git_output("rev-parse", "HEAD")
    changes = _git_output("status", "--porcelain")
    return {"commit": commit or None, "dirty": None if changes is None else bool(changes)}


def _git_output(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_HERE.parent), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
