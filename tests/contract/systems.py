"""Every system in the folders gets every test of this folder, unasked."""

from importlib import import_module

import torch
from torch import nn

from kt_forecast.nn.system import Cost, System, SystemConfig, modules_in
from kt_forecast.sequences.interactions import Batch, Vocabulary
from kt_forecast.tasks.knowledge_tracing import Scheme, Tracer, TracingConfig

WIDTH = 16
VOCABULARY = Vocabulary(
    questions=tuple(f"q{i}" for i in range(9)),
    concepts=("a", "b", "c", "d"),
    extras=("elapsed", "hints"),
)


def systems() -> dict[str, System]:
    found = {}
    for package in ("kt_forecast.zoo", "kt_forecast.baselines"):
        for name in modules_in(package):
            system = getattr(import_module(f"{package}.{name}"), "SYSTEM", None)
            if system is not None and system.build is not None:
                found[name] = system
    forms = {form: found[name] for form, name in OTHER_FORMS.items() if name in found}
    return found | forms


OTHER_FORMS = {
    "combiner_axial": "combiner",
    "combiner_log": "combiner",
    "mamba2": "mamba",
    "infini_transformer_delta": "infini_transformer",
    "image_transformer_rows": "image_transformer",
    "sparse_transformer_fixed": "sparse_transformer",
}
"""Settings, by a name of their own, that make so much of a system anew that it is tested twice."""
SYSTEMS = systems()
STEP_CAUSAL = [n for n, s in SYSTEMS.items() if s.promises.causality in {"step", "step by change"}]
STREAMING = [n for n in STEP_CAUSAL if SYSTEMS[n].promises.streaming]
SCHEMES: tuple[Scheme, ...] = ("shifted", "alternating", "two_stream", "late")
TRACED = [
    (name, scheme)
    for name in STEP_CAUSAL
    for scheme in SCHEMES
    if name not in OTHER_FORMS
    if scheme != "two_stream" or SYSTEMS[name].promises.two_streams
]


SMALL: dict[str, dict[str, object]] = {
    "etc": {"segment": 4, "window": 3, "tokens": 3, "sources": 2, "distances": 2},
    "image_transformer": {"block": 4},
    "image_transformer_rows": {
        "form": "rows",
        "period": 6,
        "columns": 2,
        "rows": 2,
        "above": 1,
        "beside": 1,
    },
    "combiner": {"segment": 4},
    "combiner_axial": {"form": "axial", "segment": 4},
    "combiner_log": {"form": "log"},
    "bigbird": {"block": 3, "window": 2, "random_blocks": 2, "heads": 2},
    "infini_transformer": {"segment": 4},
    "infini_transformer_delta": {"segment": 4, "rule": "delta"},
    "linear_transformer": {"chunk": 4},
    "linformer": {"chunk": 4, "slots": 5, "places": 7},
    "longformer": {"window": 2, "tokens": 3, "spacing": 5, "heads": 2},
    "adaptive_span": {"longest": 6, "ramp": 3, "heads": 2},
    "sparse_transformer": {"stride": 4, "reading": "merged", "heads": 2},
    "sparse_transformer_fixed": {"stride": 4, "pattern": "fixed", "summary": 1, "heads": 2},
    "all_attention": {"window": 5, "persistent": 3, "heads": 2},
    "sinkhorn_transformer": {"block": 3, "heads": 2},
    "dynamic_sparse_attention": {"kept": 3, "heads": 2, "codes": 4, "samples": 3},
    "mamba": {"chunk": 4},
    "mamba2": {"chunk": 4, "form": "mamba2", "groups": 2},
    "memory_compressed": {"window": 4, "factor": 3},
    "memory_transformer": {"slots": 3, "heads": 2},
    "performer": {"chunk": 4, "features": 12},
    "reformer": {"buckets": 4, "window": 3, "heads": 2, "at_once": 5},
    "retnet": {"chunk": 4, "magnitudes": True},
    "rmt": {"slots": 3, "segment": 4, "heads": 2},
    "routing_transformer": {"clusters": 3, "window": 3, "heads": 2},
    "set_transformer": {"points": 3, "chunk": 4},
    "synthesizer": {"reach": 7, "mixed": True},
    "compressive_transformer": {"segment": 4, "memory": 4, "compressed": 3, "rate": 2},
    "gtrxl": {"window": 5, "segment": 4},
    "transformer_xl": {"window": 5, "segment": 4},
    "titans": {"layers": 1, "chunk": 6, "heads": 2, "window": 5, "slots": 3},
}
"""Settings under which a few steps already cross every border that a system has."""

COUNTED: dict[str, dict[str, object]] = {
    "combiner": {"expansion": 1},
    "sparse_transformer": {"expansion": 1},
    "sparse_transformer_fixed": {"expansion": 1, "summary": 8},
    "image_transformer_rows": {"period": 32, "columns": 4, "rows": 4, "above": 4, "beside": 4},
    "etc": {"layers": 1},
    "infini_transformer_delta": {"segment": 64},
    "mamba": {"chunk": 64, "layers": 1},
    "memory_compressed": {"window": 16, "factor": 2},
    "memory_transformer": {"layers": 1},
    "reformer": {"at_once": 512, "layers": 1},
    "rmt": {"segment": 256},
    "set_transformer": {"chunk": 128, "layers": 1},
    "synthesizer": {"reach": 4200, "layers": 1},
    "sinkhorn_transformer": {"block": 2, "chosen": 1, "layers": 1, "expansion": 1},
    "dynamic_sparse_attention": {"codes": 16, "layers": 1, "expansion": 1},
    "titans": {"chunk": 128, "window": 64},
}
"""Settings under which thousands of steps are counted in a few seconds."""

SEGMENTS = "forms the weights of a few segments at a time"
CHUNKS = "carries its state from chunk to chunk where no fused kernel does"
QUERIES = "writes out the logits of a few queries at a time"
LOOPS = {
    "combiner_log": "has one more level of blocks where there are twice as many steps",
    "compressive_transformer": SEGMENTS,
    "gtrxl": SEGMENTS,
    "infini_transformer_delta": "a segment's memory is corrected by what the one before it left",
    "informer": QUERIES,
    "mamba": CHUNKS,
    "mamba2": CHUNKS,
    "memory_transformer": QUERIES,
    "ps_gtr": QUERIES,
    "reformer": "feeds and undoes some steps at a time",
    "retnet": CHUNKS,
    "rmt": "a segment reads the memory that the one before it wrote",
    "titans": "a chunk's memory is learned from the one before it",
    "transformer_xl": SEGMENTS,
}
"""Systems that launch more operations in a training pass over more steps, and why they do."""

FORM_COSTS = {
    "combiner_axial": Cost(
        training_flops=1.5, training_bytes=1, step_flops=1, state_bytes=1, root="segment"
    ),
    "combiner_log": Cost(training_flops=1, training_bytes=1, step_flops=1, state_bytes=1),
}
"""What other forms cost, where that is not what the system promises of its own."""


def settings(name: str, **changes: object) -> SystemConfig:
    return SYSTEMS[name].config(**{"width": WIDTH, **SMALL.get(name, {}), **changes})


def generic(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a random value: what starts at zero would hide what it gates."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * drawn)
    return module


def mixer(name: str, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    return generic(SYSTEMS[name].build(settings(name, **changes)).double()).eval()


def tracer(
    name: str, scheme: Scheme, *, own: dict[str, object] | None = None, **tracing: object
) -> Tracer:
    torch.manual_seed(0)
    config = TracingConfig.model_validate({"scheme": scheme, "dropout": 0.1, **tracing})
    model = Tracer(SYSTEMS[name], settings(name, **(own or {})), config, VOCABULARY)
    generator = torch.Generator().manual_seed(4)
    learned = {name for name, _ in model.named_parameters()}
    for buffer in (t for name, t in model.state_dict().items() if name not in learned):
        # Statistics as if fitted: right answers, answers and the rest, none of them constant.
        buffer.copy_(torch.rand(buffer.shape, generator=generator).sort(-1).values)
    return generic(model.double()).eval()


def interactions(rows: int, steps: int, *, bundles: bool = False, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)

    def whole(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=draw)

    def number(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    event = whole(2, rows, steps).cumsum(1) if bundles else torch.arange(steps).repeat(rows, 1)
    return Batch(
        question=whole(10, rows, steps),
        concepts=whole(5, rows, steps, 3),
        response=whole(2, rows, steps),
        event=event,
        seconds=(number(rows, steps) * 1e5).float(),
        extras=(number(rows, steps, 2) * 50).float(),
        real=torch.ones(rows, steps, dtype=torch.bool),
        scored=torch.ones(rows, steps, dtype=torch.bool),
        place=torch.arange(rows * steps).reshape(rows, steps),
        bundles=bundles,
    )
