"""Run a study by its name; write its record and its page."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from kt_forecast.errors import InputError
from kt_forecast.studies.record import StudyRecord
from kt_forecast.studies.study import Clock, Found, Say, Study
from kt_forecast.studies.systems import StudySettings

STUDIES = ("reuse", "budget", "needle", "latency", "growth")
"""Studies by name; each is a file of this folder."""
RUNNING = "The study was still running when this was written: not all was measured."


def load(name: str) -> Study:
    """Return a study by name.

    Raises:
        InputError: there is no such study; the nearest name is suggested.
    """
    if name not in STUDIES:
        from kt_forecast.nn.system import unknown

        raise InputError(unknown(name, list(STUDIES), "study"))
    study: Study = import_module(f"kt_forecast.studies.{name}").STUDY
    return study


def run_study(
    name: str,
    sets: Sequence[str] = (),
    *,
    full: bool = False,
    device: str = "auto",
    out: Path,
    say: Say = print,
) -> StudyRecord:
    """Run a study, and write its record and its page.

    The record is written after every reading, so that what was measured outlives what goes wrong
    afterwards; until the last it says that it is unfinished.

    Args:
        name: one of `STUDIES`.
        sets: settings to replace, each as ``a=b`` with a value as JSON writes it, or a word.
        full: begin with the sizes that a GPU is asked for.
        device: a torch device, or ``auto``.
        out: folder in which NAME.json and NAME.html are written.
        say: told what happens, one sentence at a time.

    Raises:
        InputError: a name, a setting or the device cannot be used.
    """
    from kt_forecast.studies.measuring import machine, seeded
    from kt_forecast.training import device_named

    study = load(name)
    given = (study.full if full else {}) | replaced(sets) | {"device": str(device_named(device))}
    settings = study.settings.parse(given, f"settings of the study {name!r}")
    began = time.perf_counter()
    words = ["kt-forecast study", name, *(["--full"] if full else []), *_quoted(sets)]
    command = " ".join([*words, *([] if device == "auto" else ["--device", device])])
    on = machine(settings.device, settings.precision)
    clock, record = Clock(settings.seconds), None
    with seeded(settings.seed):
        for found in study.run(settings, say, clock):
            record = _record(study, name, settings, found, on)
            record = replace(record, command=command, seconds=time.perf_counter() - began)
            _put(replace(record, unfinished=RUNNING), out)
    if record is None:
        raise InputError(
            f"the study {name!r} measured nothing; accepted are settings that leave it something,"
            " and seconds enough for a reading"
        )
    if clock.stopped:
        ended = f"The study ended at its limit of {settings.seconds:g} seconds: not all was"
        record = replace(record, unfinished=f"{ended} measured.")
    write(record, out)
    return record


def replaced(sets: Sequence[str]) -> dict[str, Any]:
    """Return the settings that words of the form ``a=b`` ask for; ``a.b=c`` sets within one.

    Raises:
        InputError: a word is not of that form.
    """
    found: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise InputError(f"--set {text}: accepted is A=B, or A.B=C")
        *path, last = key.split(".")
        place = found
        for part in path:
            place = place.setdefault(part, {})
        try:
            place[last] = json.loads(value)
        except json.JSONDecodeError:
            place[last] = value
    return found


def draw(path: Path) -> Path:
    """Draw the page of a record that was written elsewhere, beside it; return its path.

    Raises:
        InputError: there is no such file, or it holds no record.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; accepted is the JSON that a study wrote")
    record = StudyRecord.from_json(path.read_text(encoding="utf-8"), str(path))
    return _page(record, path.parent)


def write(record: StudyRecord, out: Path) -> None:
    """Write NAME.json and NAME.html, each whole or not at all."""
    _put(record, out)
    _page(record, out)


def _put(record: StudyRecord, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    _whole(out / f"{record.study}.json", record.to_json())


def _page(record: StudyRecord, out: Path) -> Path:
    from kt_forecast.studies.page import render

    path = out / f"{record.study}.html"
    _whole(path, render(record))
    return path


def _whole(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _record(
    study: Study, name: str, settings: StudySettings, found: Found, machine: dict[str, Any]
) -> StudyRecord:
    return StudyRecord(
        study=name,
        question=study.question,
        answers=found.answers,
        how=found.how,
        settings=settings.model_dump(mode="json"),
        machine=machine,
        seconds=0.0,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command="",
        tables=found.tables,
        charts=found.charts,
        rows=found.rows,
    )


def _quoted(sets: Sequence[str]) -> list[str]:
    import shlex

    return [word for text in sets for word in ("--set", shlex.quote(text))]
