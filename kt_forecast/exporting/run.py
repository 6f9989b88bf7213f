"""Everything the command ``export`` does: trace, write, compare with the model, and say so."""

import hashlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from kt_forecast.errors import InputError
from kt_forecast.exporting import forecasting, held_out, tracing
from kt_forecast.exporting.forms import LENGTH, NEXT, Form, Size
from kt_forecast.exporting.writing import (
    ENDINGS,
    INT8_ENDING,
    ONNX,
    TORCH,
    read,
    refuse_without_onnx,
    save_int8,
    save_onnx,
    save_torch,
    traced,
)
from kt_forecast.serving.models import TRACING, Loaded, Origin

MANIFEST = "manifest.json"
BOTH = "both"
FORMATS = {TORCH: (TORCH,), ONNX: (ONNX,), BOTH: (TORCH, ONNX)}
TOLERANCE = 1e-5
"""Largest difference of a probability, or of a standardised forecast, that counts as equal."""

FORMAT = 1
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "kt-forecast")
LENGTH_WHERE_FIXED = 200
"""Steps of a history where a system can only be traced at one length."""

REPEATS = 30
WARM = 3
STREAMED = Size(1, 24)

Say = Callable[[str], object]
Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


class UntraceableError(InputError):
    """torch.export cannot follow a system's code."""


@dataclass(frozen=True)
class Wanted:
    """What to export.

    Attributes:
        model: a run, a folder of a saved model, or ``name@alias``.
        to: folder of the files, made where it is missing.
        formats: a key of `FORMATS`.
        form: ``step``, ``window``, or None for all that the model has.
        length: the only length of a history that the window form shall take; None for any.
        int8: write the ONNX files once more with int8 matrices.
        data: a table on which to tell what int8 costs; else the run's validation rows.
        override: why a model is exported that its audit does not allow.
        runs: folder of the runs.
    """

    model: str
    to: Path
    formats: str = BOTH
    form: str | None = None
    length: int | None = None
    int8: bool = False
    data: Path | None = None
    override: str = ""
    runs: Path = Path("mlruns")


@dataclass(frozen=True)
class Written:
    """One file.

    Attributes:
        form: which.
        name: of the file.
        size: bytes.
        sha256: of its content.
        differences: largest absolute difference from the model at each size; empty for int8.
    """

    form: Form
    name: str
    size: int
    sha256: str
    differences: tuple[tuple[Size, float], ...]

    @property
    def largest(self) -> float:
        """Return the largest difference of all sizes."""
        return max((found for _, found in self.differences), default=float("nan"))


def export(wanted: Wanted, say: Say = print) -> list[Table]:
    """Write a model's forms and their manifest, whole or not at all.

    Args:
        wanted: what to export.
        say: told what happens.

    Returns:
        Tables of what was written and compared.

    Raises:
        InputError: there is no such model, its audit does not allow it, it cannot be exported, or
            a file does not give what the model gives.
    """
    if wanted.formats not in FORMATS:
        raise InputError(f"--format {wanted.formats!r}: accepted are {', '.join(FORMATS)}")
    formats = FORMATS[wanted.formats]
    if wanted.int8 and ONNX not in formats:
        raise InputError(
            "--int8 writes ONNX, since torch.export cannot hold torch's own int8 matrices; accepted"
            " is --format onnx or both"
        )
    if ONNX in formats:
        refuse_without_onnx()
    loaded = Origin(wanted.model, wanted.runs, override=wanted.override).load()
    forms = _forms(loaded, wanted)
    wanted.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wanted.to, prefix=".part-") as part:
        folder = Path(part)
        written = _all_written(forms, formats, folder, loaded.fitted, say)
        tables = [_compared(written)]
        quantised: list[dict[str, Any]] = []
        if wanted.int8:
            table, quantised, smaller = _int8(loaded, written, folder, wanted)
            tables.append(table)
            written += smaller
        facts = _manifest(loaded, written, quantised)
        (folder / MANIFEST).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        for path in sorted(folder.iterdir()):
            path.replace(wanted.to / path.name)
    say(f"{len(written)} files and {MANIFEST} in {wanted.to}; audit verdict: {loaded.verdict}")
    return tables


def _all_written(
    forms: list[Form],
    formats: tuple[str, ...],
    folder: Path,
    fitted: Any,  # noqa: ANN401
    say: Say,
) -> list[Written]:
    """Write every form that can be; say which cannot.

    Raises:
        InputError: none can be, or a file does not give what the model gives.
        UntraceableError: likewise.
    """
    written: list[Written] = []
    refused: list[UntraceableError] = []
    for form in forms:
        try:
            written += _write(form, formats, folder, fitted, say)
        except UntraceableError as error:
            refused.append(error)
            say(str(error))
    if not written:
        raise refused[0]
    return written


def _forms(loaded: Loaded, wanted: Wanted) -> list[Form]:
    """Return the forms that are wanted.

    Raises:
        InputError: the model has no such form.
    """
    if loaded.task == TRACING:
        fixed = wanted.length or (LENGTH_WHERE_FIXED if _is_unrolled(loaded.fitted) else None)
        found = tracing.forms(loaded.fitted, fixed)
    else:
        found = forecasting.forms(loaded.fitted)
    names = [form.name for form in found]
    if wanted.form is not None and wanted.form not in names:
        raise InputError(
            f"{wanted.model} has no {wanted.form} form; accepted is --form {' or '.join(names)}"
        )
    return [form for form in found if wanted.form in {None, form.name}]


def _is_unrolled(fitted: Any) -> bool:  # noqa: ANN401
    """Return whether tracing writes a model out step by step, for as many as it is shown."""
    return any(isinstance(part, torch.nn.RNNBase) for part in _modules(fitted.model))


def _modules(model: Any) -> Sequence[torch.nn.Module]:  # noqa: ANN401
    return list(model.modules()) if isinstance(model, torch.nn.Module) else []


def _write(
    form: Form,
    formats: tuple[str, ...],
    folder: Path,
    fitted: Any,  # noqa: ANN401
    say: Say,
) -> list[Written]:
    """Write one form in each format, and hold each file to the model.

    Raises:
        InputError: a file cannot be written, or does not give what the model gives.
        UntraceableError: it cannot be exported.
    """
    found = []
    say(f"{form.name}: tracing {fitted.plan.name}")
    try:
        program = traced(form)
    except Exception as error:  # noqa: BLE001 - torch raises of every kind where it cannot follow
        raise UntraceableError(_refusal(form, fitted, "torch.export", error)) from None
    for kind in formats:
        path = folder / f"{form.name}{ENDINGS[kind]}"
        say(f"{form.name}: writing {path.name} and comparing it with the model")
        try:
            if kind == TORCH:
                save_torch(program, path)
            else:
                save_onnx(program, form, path)
            loaded = read(path)
            differences = tuple((size, form.farthest(loaded, size)) for size in form.sizes)
        except Exception as error:  # noqa: BLE001 - of every kind, too
            raise InputError(_refusal(form, fitted, kind, error)) from None
        found.append(_written(form, path, differences))
        if not found[-1].largest <= TOLERANCE:
            raise InputError(
                f"{path.name} differs from the model by up to {found[-1].largest:.2g}, where"
                f" {TOLERANCE:g} is accepted; nothing was written"
            )
    return found


def _refusal(form: Form, fitted: Any, what: str, error: Exception) -> str:  # noqa: ANN401
    """Return the sentence that says why a form cannot be exported."""
    name, said = type(error).__name__, str(error)
    if "Constraints violated" in said:
        reason = "its code takes batch or length for a constant while it is traced"
    elif "data-dependent" in said.lower() or "DataDependent" in name:
        reason = "its way through the code depends on numbers that only running it gives"
    else:
        reason = said.strip().partition("\n")[0].rstrip(".") or name
    return (
        f"the {form.name} form of {fitted.plan.name} cannot be exported ({what}): {reason};"
        " accepted are another --form or another system, such as gpt"
    )


def _written(form: Form, path: Path, differences: tuple[tuple[Size, float], ...] = ()) -> Written:
    content = path.read_bytes()
    return Written(form, path.name, len(content), hashlib.sha256(content).hexdigest(), differences)


def _compared(written: list[Written]) -> Table:
    """Return the table of how far each file is from the model."""
    rows: list[tuple[str, ...]] = [
        (
            one.name,
            f"{one.size:,}",
            f"{one.largest:.2g}",
            ", ".join(f"{size.batch} x {size.length}" for size, _ in one.differences),
        )
        for one in written
    ]
    header: tuple[str, ...] = ("file", "bytes", "largest difference", "at batch x length")
    return "files compared with the model", header, rows


def _int8(
    loaded: Loaded, written: list[Written], folder: Path, wanted: Wanted
) -> tuple[Table, list[dict[str, Any]], list[Written]]:
    """Write int8 files; tell what they cost and gain.

    Raises:
        InputError: there are no rows to tell it on.
    """
    rows: list[tuple[str, ...]] = []
    facts: list[dict[str, Any]] = []
    smaller: list[Written] = []
    for one in written:
        if not one.name.endswith(ENDINGS[ONNX]):
            continue
        whole, path = folder / one.name, folder / one.name.replace(ENDINGS[ONNX], INT8_ENDING)
        save_int8(whole, path)
        smaller.append(_written(one.form, path))
        found: dict[str, Any] = {"file": path.name, "bytes": [one.size, smaller[-1].size]}
        score: tuple[str, ...] = ("-", "-", "-")
        if one.form.name == "window":
            rated, whose = _held_out(loaded, one.form, wanted)
            before, after = rated.score(read(whole)), rated.score(read(path))
            found |= {"metric": rated.metric, "rows": whose, "score": [before, after]}
            score = (f"{rated.metric} of {whose}", f"{before:.4f}", f"{after:.4f}")
        else:
            gap = one.form.farthest(read(path), STREAMED)
            found["largest_difference"] = gap
            score = (f"largest difference in {STREAMED.length} steps", "0", f"{gap:.2g}")
        found["milliseconds"] = [_milliseconds(one.form, p) for p in (whole, path)]
        facts.append(found)
        rows.append(
            (
                path.name,
                *score,
                " -> ".join(f"{ms:.2f}" for ms in found["milliseconds"]),
                " -> ".join(f"{size:,}" for size in found["bytes"]),
            )
        )
    header: tuple[str, ...] = ("file", "measured", "float32", "int8", "ms a call", "bytes")
    return ("what int8 costs and gains", header, rows), facts, smaller


def _held_out(
    loaded: Loaded, form: Form, wanted: Wanted
) -> tuple[held_out.HeldOutStudents | held_out.HeldOutSeries, str]:
    if loaded.task == TRACING:
        length = form.inputs["question"][1]
        fixed = length if isinstance(length, int) else None
        return held_out.of_tracer(loaded.fitted, wanted.model, wanted.data, wanted.runs, fixed)
    return held_out.of_forecaster(loaded.fitted, wanted.model, wanted.data, wanted.runs, form)


def _milliseconds(form: Form, path: Path) -> float:
    """Return the median time of a call with one student or window."""
    program = read(path)
    given = form.draw(Size(1, max(size.length for size in form.sizes)))
    times = []
    for number in range(WARM + REPEATS):
        begun = time.perf_counter()
        program(given)
        if number >= WARM:
            times.append(time.perf_counter() - begun)
    return 1000.0 * statistics.median(times)


def _manifest(
    loaded: Loaded, written: list[Written], quantised: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return all that a user of the files must know."""
    fitted = loaded.fitted
    forms = {one.form.name: one.form for one in written}
    return {
        "format": FORMAT,
        "model": loaded.facts(),
        "plan": fitted.plan.plain(),
        "audit": {"verdict": loaded.verdict, "override": loaded.override},
        "tolerance": TOLERANCE,
        "forms": {
            name: _described(form, [one for one in written if one.form is form])
            for name, form in forms.items()
        },
        "int8": quantised,
        "names": _names(loaded),
        "versions": {name: _version(name) for name in PACKAGES}
        | {"python": platform.python_version(), "threads": os.environ.get("OMP_NUM_THREADS", "")},
    }


def _described(form: Form, files: list[Written]) -> dict[str, Any]:
    kinds = {
        name: str(tensor.dtype).removeprefix("torch.")
        for name, tensor in zip(form.inputs, form.example, strict=True)
    }
    return {
        "inputs": [
            {"name": name, "type": kinds[name], "shape": list(shape)}
            | ({"start": form.start[name]} if name in form.start else {})
            for name, shape in form.inputs.items()
        ],
        "outputs": list(form.outputs),
        "state": {name: name.removeprefix(NEXT) for name in form.outputs if name.startswith(NEXT)},
        "any_length": any(LENGTH in shape for shape in form.inputs.values()),
        "notes": list(form.notes),
        "files": [
            {
                "name": one.name,
                "bytes": one.size,
                "sha256": one.sha256,
                "compared": [asdict(size) | {"difference": gap} for size, gap in one.differences],
            }
            for one in files
        ],
    }


def _names(loaded: Loaded) -> dict[str, Any]:
    """Return what the numbers of the inputs mean."""
    fitted = loaded.fitted
    if loaded.task == TRACING:
        return asdict(fitted.vocabulary)
    scale = fitted.scale
    return {
        "series": {
            name: {"shift": float(shift), "spread": float(spread)}
            for name, shift, spread in zip(scale.ids, scale.shift, scale.spread, strict=True)
        },
        "step": fitted.frequency.text,
        "horizon": fitted.horizon,
        "context": fitted.context,
        "past": list(scale.past_names),
        "known": list(scale.future_names),
        "static": list(scale.static_names),
        "calendar": bool(fitted.plan.forecasting.calendar),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
