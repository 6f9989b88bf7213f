"""Tensors and plain values in one file: written whole or not at all, read without executing it."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kt_forecast.errors import InputError


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and plain values as one file, whole or not at all; makes the folder.

    Args:
        path: ends in ``.safetensors``; an older file is replaced.
        tensors: may share memory.
        facts: anything JSON can hold.

    Raises:
        OSError: the folder cannot be written to, or is full; no part of the file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        save_file(copied(tensors), part, metadata={"facts": json.dumps(facts)})
    except SafetensorError as error:
        part.unlink(missing_ok=True)
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `write_tensors` wrote, on the CPU; nothing in the file is executed.

    Raises:
        InputError: the file is not one that `write_tensors` wrote.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file of this program ({error}); "
            f"delete it or give another"
        ) from None


def read_model(
    folder: Path, name: str, *, version: int, what: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a folder of a saved model holds.

    Args:
        folder: where it was saved.
        name: of the file.
        version: of its format that can be read.
        what: the word for what it should be, for the message.

    Raises:
        InputError: there is no model, or it is not one that this version reads.
    """
    path = folder / name
    if not path.is_file():
        raise InputError(f"{folder}: holds no {name}; accepted is a folder of a saved {what}")
    tensors, facts = read_tensors(path)
    if facts.get("format") != version:
        raise InputError(
            f"{path}: has model format {facts.get('format')!r}; this version reads {version}"
        )
    return tensors, facts


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU that share no memory, as safetensors asks."""
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
