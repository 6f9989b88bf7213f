"""Runs a model again and again from the same state: weights, buffers, attributes, random draws."""

import random
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kt_forecast.audit.dependency.analysis import leaves

EVALUATION, TRAINING = "evaluation", "training"
OWN, GENERIC = "own", "generic"
EAGER, GRADIENTS, COMPILING = "eager", "gradients", "compiling"
HALF, FLOAT16 = "half precision", "half precision (float16)"
CUDA, CUDA_HALF = "on the GPU", "on the GPU, half precision"
COMPILED = "compiled by "
"""What a path begins with that names a compiler."""

ATTENTION = {
    "attention by the math kernel": "MATH",
    "attention by the flash kernel": "FLASH_ATTENTION",
    "attention by the efficient kernel": "EFFICIENT_ATTENTION",
}
"""Paths by the kernel that computes attention."""

COARSE_PATHS = (HALF, FLOAT16, CUDA_HALF)
"""Paths whose results double precision cannot stand in for."""

_ALWAYS = frozenset(vars(nn.Module()))
"""Attributes that every module has."""

Call = Callable[[dict[str, Tensor]], Any]
Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """How a model is run.

    Attributes:
        mode: evaluation or training.
        weights: its own, or generic random ones.
        path: eager (without gradients), gradients (recorded), half precision (autocast to
            bfloat16 or float16), one kernel for attention, compiling (as code that asks sees it
            under a compiler), compiled (really), on the GPU.
        double: in double precision.
    """

    mode: str = EVALUATION
    weights: str = OWN
    path: str = EAGER
    double: bool = False

    def __str__(self) -> str:
        """Say it in a few words."""
        parts = [self.mode, f"{self.weights} weights"]
        parts += [self.path] if self.path != EAGER else []
        parts += ["double precision"] if self.double else []
        return ", ".join(parts)


class Runner:
    """Calls a model in any setting, always from the state in which it was given.

    Args:
        model: the module whose state is kept.
        call: from named inputs to any nest of outputs.
        seed: of every random draw inside the model.
        plain: the same call, written so that it can be followed; by default the call itself.
    """

    def __init__(self, model: nn.Module, call: Call, seed: int, plain: Call | None = None) -> None:
        self.model = model
        self.call = call
        self.plain = plain or call
        self.seed = seed
        self.count = 0
        self._compiled: dict[str, Call] = {}
        first = next(iter([*model.parameters(), *model.buffers()]), None)
        self.device = "cpu" if first is None else first.device.type

    def __call__(self, inputs: dict[str, Tensor], setting: Setting) -> Outputs:
        """Return the outputs, by path; the model is afterwards as it was."""
        with kept(self.model), self.set(setting):
            return self.run(inputs, setting)

    @contextmanager
    def held(self, setting: Setting) -> Iterator[Callable[[dict[str, Tensor]], Outputs]]:
        """Give a function that runs the model in one setting, each time from the same state."""
        with kept(self.model), self.set(setting):
            state = State(self.model)

            def run(inputs: dict[str, Tensor]) -> Outputs:
                found = self.run(inputs, setting)
                state.restore()
                return found

            yield run

    def run(self, inputs: dict[str, Tensor], setting: Setting) -> Outputs:
        """Return the outputs of a call in the state the model is in."""
        self.count += 1
        given = {name: x.detach().clone() for name, x in inputs.items()}
        if setting.double:
            given = {k: x.double() if x.is_floating_point() else x for k, x in given.items()}
        if setting.path in {CUDA, CUDA_HALF}:
            given = {k: x.cuda() for k, x in given.items()}
        call = self.call
        if setting.path.startswith(COMPILED):
            call = self.compiled(setting.path.removeprefix(COMPILED))
        with seeded(self.seed), path_of(setting, self.device):
            out = call(given)
        return tensors(out)

    def compiled(self, compiler: str) -> Call:
        """Return the call as a compiler makes it; compiled when it is first called."""
        if compiler not in self._compiled:
            self._compiled[compiler] = torch.compile(self.call, backend=compiler, dynamic=False)
        return self._compiled[compiler]

    @contextmanager
    def set(self, setting: Setting) -> Iterator[None]:
        """Put the model into a setting; `kept` puts it back."""
        with ExitStack() as stack:
            if setting.weights == GENERIC:
                _randomise(self.model, self.seed)
            if setting.double:
                stack.enter_context(doubled(self.model))
            if setting.path in {CUDA, CUDA_HALF}:
                stack.enter_context(elsewhere(self.model, torch.device("cuda")))
            put_in_mode(self.model, training=setting.mode == TRAINING)
            yield


def put_in_mode(model: nn.Module, *, training: bool) -> None:
    """Put a model into training or evaluation, even if ``train`` means something else to it."""
    try:
        model.train(training)
    except TypeError:
        for module in model.modules():
            module.training = training


def tensors(out: Any) -> Outputs:  # noqa: ANN401 - whatever a model returns
    """Return copies of the tensors and numbers of a nest by path."""
    found = {}
    for path, x in leaves(out).items():
        value = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
        found[path] = value.detach().clone()
    return found


def path_of(setting: Setting, device: str = "cpu") -> AbstractContextManager[Any]:
    """Return the context in which a setting runs a model.

    Args:
        setting: how to run it.
        device: the kind of device that the model is on.
    """
    stack = ExitStack()
    path = setting.path
    stack.enter_context(torch.enable_grad() if path == GRADIENTS else torch.no_grad())
    if path in {CUDA, CUDA_HALF}:
        device = "cuda"
        stack.enter_context(torch.device("cuda"))
    if path in COARSE_PATHS:
        kind = torch.float16 if path == FLOAT16 else torch.bfloat16
        stack.enter_context(torch.autocast(device, kind))
    if path == COMPILING:
        stack.enter_context(patch("torch.compiler.is_compiling", lambda: True))
    if path in ATTENTION:
        stack.enter_context(_attending(ATTENTION[path]))
    return stack


@contextmanager
def _attending(kernel: str) -> Iterator[None]:
    """Compute attention by one kernel, and the layers of attention without their fast path."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(getattr(SDPBackend, kernel)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # why a kernel cannot be used: the error says it too
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Repeat the random draws of torch, numpy and Python, and seeds that a model asks for."""
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002 - models draw from it
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    asked = count(seed + 1)

    def reseeded() -> int:
        return torch.manual_seed(next(asked)).initial_seed()

    with torch.random.fork_rng(devices), patch.object(torch, "seed", reseeded):
        # Where there is no GPU, torch.manual_seed keeps the stack of every call for later.
        seeds = (
            torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
        )
        seeds(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)  # noqa: NPY002


class State:
    """What a model holds: parameters, buffers, attributes, and what lies in its lists and dicts."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        self._training = [m.training for m in self._modules]
        self._buffers = [dict(m._buffers) for m in self._modules]  # noqa: SLF001
        self._attributes = [
            {k: v for k, v in vars(m).items() if k not in _ALWAYS} for m in self._modules
        ]
        self._inside: list[tuple[Any, Any]] = []
        held: dict[int, Tensor] = {id(x): x for x in (*model.parameters(), *model.buffers())}
        # Batch normalisation updates its buffers without their version telling of it.
        self._always = {id(x) for x in model.buffers()}
        for attributes in self._attributes:
            for value in attributes.values():
                self._keep(value, held)
        self._tensors = [(x, x.detach().clone(), x._version) for x in held.values()]  # noqa: SLF001

    def restore(self) -> None:
        """Put everything back that has changed."""
        for i, module in enumerate(self._modules):
            module.training = self._training[i]
            if [*map(id, module._buffers.values())] != [*map(id, self._buffers[i].values())]:  # noqa: SLF001
                module._buffers.clear()  # noqa: SLF001
                module._buffers.update(self._buffers[i])  # noqa: SLF001
            now = vars(module)
            for name in [k for k in now if k not in _ALWAYS and k not in self._attributes[i]]:
                del now[name]
            now.update(self._attributes[i])
        for container, content in self._inside:
            container.clear()
            (container.update if isinstance(container, dict | set) else container.extend)(content)
        with torch.no_grad():
            for i, (x, copy, version) in enumerate(self._tensors):
                written = x._version != version or id(x) in self._always  # noqa: SLF001
                if written and x.shape == copy.shape:
                    x.data.copy_(copy)
                    self._tensors[i] = (x, copy, x._version)  # noqa: SLF001

    def _keep(self, value: Any, held: dict[int, Tensor]) -> None:  # noqa: ANN401
        if isinstance(value, Tensor):
            held.setdefault(id(value), value)
        elif isinstance(value, dict | OrderedDict | list | set | deque):
            self._inside.append((value, type(value)(value)))
            for part in value.values() if isinstance(value, dict) else value:
                self._keep(part, held)
        elif isinstance(value, tuple):
            for part in value:
                self._keep(part, held)


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Leave a model as it was."""
    state = State(model)
    try:
        yield
    finally:
        state.restore()


@contextmanager
def doubled(model: nn.Module) -> Iterator[None]:
    """Hold a model, and what it makes of the default type, in double precision."""
    default = torch.get_default_dtype()
    with _held_as(model, lambda x: x.double() if x.is_floating_point() else x):
        try:
            torch.set_default_dtype(torch.float64)
            yield
        finally:
            torch.set_default_dtype(default)


def elsewhere(model: nn.Module, device: torch.device) -> AbstractContextManager[None]:
    """Hold a model on another device."""
    return _held_as(model, lambda x: x.to(device))


@contextmanager
def _held_as(model: nn.Module, other: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Hold what a model is made of in another form."""
    data = [(p, p.data) for p in model.parameters()]
    buffers = [(m, dict(m._buffers)) for m in model.modules()]  # noqa: SLF001
    try:
        model._apply(other)  # noqa: SLF001 - what .double() and .to() do
        for module in model.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, Tensor) and name not in _ALWAYS:
                    setattr(module, name, other(value))
        yield
    finally:
        for p, tensor in data:
            p.data = tensor
        for module, was in buffers:
            module._buffers.clear()  # noqa: SLF001
            module._buffers.update(was)  # noqa: SLF001


@torch.no_grad()
def _randomise(model: nn.Module, seed: int) -> None:
    """Give every parameter a value that no training or initialisation made special.

    Parameters that are held while others are trained are constants of the model: they stay.
    """
    generator = torch.Generator().manual_seed(seed)
    every = list(model.parameters())
    for parameter in [p for p in every if p.requires_grad] or every:
        fan = parameter.shape[-1] if parameter.ndim > 1 else 1
        drawn = torch.randn(parameter.shape, generator=generator) * (2.0 / max(fan, 1)) ** 0.5
        parameter.copy_(drawn.to(parameter))


_COPIES = {torch.ops.aten.clone.default, torch.ops.aten.detach.default}
"""What is done to inputs before they are put into double precision."""


class _Precisions(TorchDispatchMode):
    """Sees whether anything is computed in less than double precision."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lesser = False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operation returns
        """Run an operation."""
        out = func(*args, **(kwargs or {}))
        changes = isinstance(out, Tensor) and out.is_floating_point() and out.numel() > 1
        if changes and func not in _COPIES:
            self.lesser |= out.dtype != torch.float64
        return out


def runs_in_double(runner: Runner, inputs: dict[str, Tensor], setting: Setting) -> bool:
    """Return whether the whole model can be run in double precision."""
    try:
        with runner.held(replace(setting, double=True)) as run, _Precisions() as seen:
            run(inputs)
    except Exception:  # noqa: BLE001 - of a model nothing is known
        return False
    return not seen.lesser
