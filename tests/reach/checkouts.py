"""Checkouts of libraries that are no packages, named by environment variables."""

import os
import subprocess
from pathlib import Path

COMMIT = "COMMIT"
"""A file in a checkout without history that holds its commit."""


def checkout(variable: str, package: str) -> tuple[Path, str]:
    """Return the folder that an environment variable names, and its commit.

    Args:
        variable: name of the environment variable.
        package: a folder that the checkout must hold.

    Raises:
        LookupError: there is no such checkout.
    """
    given = os.environ.get(variable, "")
    folder = Path(given)
    if not given or not (folder / package).is_dir():
        raise LookupError(f"{variable} names no checkout that holds {package}/")
    noted = folder / COMMIT
    if noted.is_file():
        return folder, noted.read_text().strip()[:7]
    asked = subprocess.run(
        ["git", "-C", given, "rev-parse", "--short=7", "HEAD"],
        check=False,
        capture_output=True,
        text=True,
    )
    return folder, asked.stdout.strip() or "commit unknown"
