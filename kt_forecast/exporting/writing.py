"""From a form to its files, and from a file to something that can be asked."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kt_forecast.errors import InputError
from kt_forecast.exporting.forms import Form, Program
from kt_forecast.exporting.translating import translations

TORCH, ONNX = "torch", "onnx"
ENDINGS = {TORCH: ".pt2", ONNX: ".onnx"}
INT8_ENDING = ".int8.onnx"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "onnxruntime", "root")


def refuse_without_onnx() -> None:
    """Refuse to write ONNX where its packages are not installed.

    Raises:
        InputError: one is missing.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX files need {missing[0]}; install it with: pip install 'kt-forecast[export]', or"
            " give --format torch"
        )


def traced(form: Form) -> torch.export.ExportedProgram:
    """Return what torch.export makes of a form.

    Raises:
        Exception: whatever torch raises where it cannot follow the code.
    """
    from torch.fx.experimental import _config as sizes

    free = tuple(
        {i: torch.export.Dim.DYNAMIC for i, size in enumerate(shape) if isinstance(size, str)}
        for shape in form.inputs.values()
    )
    # Else torch takes for granted that no size is 0 or 1.
    oblivious = sizes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with quiet(), _unannotated(), torch.no_grad(), oblivious:
        program = torch.export.export(form.module, form.example, dynamic_shapes=(free,))
    # Guards tie sizes together as the example had them; every size is checked on the file instead.
    program._guards_code = []  # noqa: SLF001
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def save_torch(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program in torch's own format."""
    with quiet():
        torch.export.save(program, path)


def save_onnx(program: torch.export.ExportedProgram, form: Form, path: Path) -> None:
    """Write a program as ONNX, weights and all in one file."""
    with quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=list(form.inputs),
            output_names=list(form.outputs),
            custom_translation_table=translations(),
        )
        assert written is not None  # noqa: S101 - None only where a file is given
        for node in written.model.graph.all_nodes():
            node.metadata_props.clear()
        written.save(path, external_data=False)


def read(path: Path) -> Program:
    """Return a file as a program."""
    return _onnx(path) if path.suffix == ENDINGS[ONNX] else _torch(path)


def _torch(path: Path) -> Program:
    with quiet():
        module = torch.export.load(path).module()

    def program(given: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(module(*(one.clone() for one in given)))

    return program


def _onnx(path: Path) -> Program:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def program(given: Sequence[Tensor]) -> list[Tensor]:
        arrays = {name: np.asarray(one) for name, one in zip(names, given, strict=True)}
        return [torch.from_numpy(one) for one in session.run(None, arrays)]

    return program


def save_int8(path: Path, quantised: Path) -> None:
    """Write an ONNX file whose matrices are int8; what they meet is quantised as it comes."""
    with quiet():
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(path, quantised, per_channel=True)


@contextmanager
def _unannotated() -> Iterator[None]:
    """Switch off checks of annotations, where they are on: torch traces with symbols for sizes."""
    from jaxtyping import config

    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", value=True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters from talking about themselves."""
    logs = [logging.getLogger(name) for name in NOISY]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)
