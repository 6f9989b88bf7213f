"""Bring a data set's files here: resumed where they broke off, verified, whole or not at all."""

import hashlib
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from kt_forecast.data.cards import Card, RemoteFile
from kt_forecast.errors import InputError

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes that are here, and the bytes of the whole if known."""

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60
_ATTEMPTS = 3
_PARTIAL = 206
_RANGE_REFUSED = 416


@dataclass(frozen=True)
class Fetched:
    """A file that is here now.

    Attributes:
        path: where.
        sha256: its checksum, as computed.
        verified: whether the card holds a checksum and this is it.
    """

    path: Path
    sha256: str
    verified: bool


def fetch(card: Card, folder: Path, progress: Progress | None = None) -> list[Fetched]:
    """Fetch the files of a card into a folder and unpack the archives among them.

    What is already here is not fetched again. An interrupted transfer leaves a ``.part`` that the
    next call goes on with, if the file has not changed on the server meanwhile.

    Raises:
        InputError: the card names no file, a server does not give one, a checksum or size is
            wrong, or an archive is damaged. No file that could be taken for a whole one is left.
    """
    if not card.files:
        raise InputError(
            f"{card.title} cannot be fetched by a program; {card.obtain} ({card.homepage})"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return [_fetch(file, folder, progress or _silent) for file in card.files]


def _silent(_name: str, _done: int, _total: int | None) -> None:
    """Report nothing."""


def _fetch(file: RemoteFile, folder: Path, progress: Progress) -> Fetched:
    path = folder / file.name
    if not path.exists():
        part = path.with_name(path.name + ".part")
        _transfer(file, part, progress)
        _verify(file, part)
        if file.unzip:
            _unzip(file, part, folder)
        part.replace(path)
    digest = _sha256(path)
    if file.sha256 not in {None, digest}:
        raise InputError(
            f"{path}: has SHA-256 {digest}, the card says {file.sha256}; move it away and fetch"
            " again"
        )
    return Fetched(path, digest, verified=file.sha256 is not None)


def _transfer(file: RemoteFile, part: Path, progress: Progress) -> None:
    """Fill the part until it is whole.

    Raises:
        InputError: the server does not give the file, or it breaks off again and again.
    """
    reason = "no answer"
    for _ in range(_ATTEMPTS):
        try:
            done, total = _receive(file, part, progress)
        except urllib.error.HTTPError as error:
            if error.code == _RANGE_REFUSED and part.exists():
                part.unlink()
                continue
            raise InputError(
                f"{file.url}: the server answers {error.code} {error.reason}; accepted is a card"
                " with a working address"
            ) from error
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(error)
            continue
        if total is None or done >= total:
            return
        reason = f"it broke off after {done} of {total} bytes"
    raise InputError(
        f"{file.url}: could not be fetched ({reason}); run the same command again to go on from"
        " what is here"
    )


def _receive(file: RemoteFile, part: Path, progress: Progress) -> tuple[int, int | None]:
    """Ask for what is missing and append it.

    The part carries the server's modification time, by which a later request asks for the rest of
    that very version; of a changed file the server sends the whole.

    Returns:
        The bytes that are here now, and the bytes of the whole if the server says.
    """
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(file.url, headers={"User-Agent": "kt-forecast"})  # noqa: S310
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", formatdate(part.stat().st_mtime, usegmt=True))
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
        if answer.status != _PARTIAL:
            done = 0
        total = _total(answer, done)
        moment = _modified(answer)
        with part.open("ab" if done else "wb") as out:
            while block := answer.read(_CHUNK_BYTES):
                out.write(block)
                out.flush()
                if moment is not None:
                    os.utime(part, (moment, moment))
                done += len(block)
                progress(file.name, done, total)
        if moment is not None:
            os.utime(part, (moment, moment))
    return done, total


def _total(answer: HTTPResponse, done: int) -> int | None:
    length = answer.headers.get("Content-Length")
    return None if length is None else done + int(length)


def _modified(answer: HTTPResponse) -> float | None:
    try:
        return parsedate_to_datetime(answer.headers.get("Last-Modified", "")).timestamp()
    except ValueError:
        return None


def _verify(file: RemoteFile, part: Path) -> None:
    """Compare size and checksum with the card's; remove what does not agree.

    Raises:
        InputError: they differ.
    """
    size, digest = part.stat().st_size, _sha256(part)
    for what, expected, seen in (
        ("size", file.bytes, size),
        ("SHA-256", file.sha256, digest),
    ):
        if expected not in {None, seen}:
            part.unlink()
            raise InputError(
                f"{file.url}: has {what} {seen}, the card says {expected}; nothing was kept,"
                " accepted is the file that the card describes"
            )


def _unzip(file: RemoteFile, archive: Path, folder: Path) -> None:
    """Unpack an archive beside itself, whole or not at all.

    Raises:
        InputError: it is no archive or a damaged one.
    """
    unpacked = folder / f".{file.name}.unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(unpacked)
    except (zipfile.BadZipFile, EOFError) as error:
        archive.unlink()
        shutil.rmtree(unpacked, ignore_errors=True)
        raise InputError(
            f"{file.url}: is no whole zip archive ({error}); nothing was kept, the address may"
            " lead to a page that asks for a login"
        ) from error
    for entry in sorted(unpacked.iterdir()):
        target = folder / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.replace(target)
    unpacked.rmdir()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
