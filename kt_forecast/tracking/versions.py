"""Which code and which libraries made a run."""

import platform
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "numpy", "polars", "scikit-learn", "mlflow")
"""What decides a run's numbers, or reads what it stored."""

NEEDED = ("kt-forecast", "torch", "numpy", "pandas", "polars", "safetensors")
"""What a stored model needs in order to predict."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries, of those that are here."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def requirements() -> list[str]:
    """Return what to install for a stored model; local labels such as ``+cpu`` are dropped."""
    return [f"{name}=={version(name).split('+', maxsplit=1)[0]}" for name in NEEDED]


def code_version(package: Path | None = None) -> dict[str, str]:
    """Return the package's version and, in a checkout of it, the commit and whether it is dirty.

    Args:
        package: folder of the package's files; by default this package's.
    """
    package = package or Path(__file__).resolve().parents[1]
    try:
        found = {"version": version("kt-forecast")}
    except PackageNotFoundError:
        found = {"version": "unknown"}
    if _git(package, "ls-files", "__init__.py"):
        changes = _git(package, "status", "--porcelain", "--untracked-files=no")
        found |= {"commit": _git(package, "rev-parse", "HEAD"), "dirty": str(bool(changes)).lower()}
    return found


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints, or nothing where it cannot answer."""
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else ""
