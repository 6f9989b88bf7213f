"""Names for known mistakes, given only where the evidence says so, and what to do about them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from kt_forecast.audit.report import Finding


@dataclass(frozen=True)
class Evidence:
    """What is known of a finding.

    Attributes:
        finding: with module, operation and chain.
        part: the submodule in which it enters, if its name was found.
        late_moments: how many of the moments at which outputs are needed are affected.
        moments: how many there are.
        whole: whether an affected output reaches the last moment of all.
        past_matters: whether anything earlier moves the outputs; None where not measured.
    """

    finding: Finding
    part: nn.Module | None
    late_moments: int
    moments: int
    whole: bool
    past_matters: bool | None


Test = Callable[[Evidence], bool]

SOFTMAX = ("_softmax", "_safe_softmax", "_scaled_dot_product", "masked_fill", "bmm", "baddbmm")
RANKING = (
    "topk",
    "sort",
    "argsort",
    "kthvalue",
    "median",
    "argmax",
    "max",
    "unique",
    "searchsorted",
)
STATISTICS = ("mean", "var", "std", "norm", "amax", "amin", "aminmax", "sum", "logsumexp", "median")


def _op(*names: str) -> Test:
    return lambda e: any(e.finding.op.startswith(name) for name in names)


def _class(*names: str) -> Test:
    return lambda e: e.part is not None and any(n in type(e.part).__name__ for n in names)


def _all(*tests: Test) -> Test:
    return lambda e: all(test(e) for test in tests)


def _off_by_one(e: Evidence) -> bool:
    return e.finding.ticks == 1 and e.late_moments > 1


def _first_only(e: Evidence) -> bool:
    return e.late_moments == 1 and e.moments > 2 and e.whole


KNOWN: tuple[tuple[str, str, Test], ...] = (
    (
        "another row",
        "compute statistics, rankings and capacities within each row, and attend within it",
        lambda e: e.finding.input == "another row",
    ),
    (
        "state kept between calls",
        "start every call from a fresh state, or take and return the state as an argument",
        lambda e: e.finding.method == "replay",
    ),
    (
        "bidirectional recurrence",
        "set bidirectional=False",
        lambda e: bool(getattr(e.part, "bidirectional", False)),
    ),
    (
        "circular padding",
        "pad with zeros on the left only",
        lambda e: getattr(e.part, "padding_mode", "") == "circular",
    ),
    (
        "padding reaches ahead",
        "pad by dilation * (kernel - 1) on the left and by nothing on the right",
        _op("convolution", "_convolution", "reflection_pad", "replication_pad"),
    ),
    (
        "batch statistics over time",
        "normalise each step by itself (LayerNorm over channels), or by statistics up to it",
        lambda e: (
            _op("native_batch_norm", "_native_batch_norm", "batch_norm")(e)
            or _class("BatchNorm")(e)
        ),
    ),
    (
        "pooling window reaches ahead",
        "pool over the last steps: pad on the left by the window's length less one",
        _op("max_pool", "avg_pool", "adaptive_", "_adaptive"),
    ),
    (
        "selection ranked across time",
        "let each step choose by itself, or compare with a threshold fixed in advance",
        _op(*RANKING[:4]),
    ),
    (
        "all-masked row becomes uniform",
        "give rows without anything to see a null key, or set their output to zero",
        _all(_op(*SOFTMAX), _first_only),
    ),
    (
        "mask inverted",
        "true must mean what the operation takes it to mean: scaled_dot_product_attention shows "
        "what is true, nn.MultiheadAttention hides it",
        _all(_op(*SOFTMAX), lambda e: e.past_matters is False),
    ),
    (
        "mask off by one",
        "mask what is later than the step: tril(0) for causal, tril(-1) for strictly past",
        _all(_op(*SOFTMAX), _off_by_one),
    ),
    (
        "attention without a causal mask",
        "add the mask to the scores before the softmax, and keep the result of masked_fill",
        _all(_op(*SOFTMAX[:3]), lambda e: e.whole),
    ),
    (
        "spectrum of the whole window",
        "transform what precedes each step only, or convolve causally",
        _op("_fft", "fft"),
    ),
    (
        "wraps around",
        "shift by padding with zeros and cutting, not by roll",
        _op("roll"),
    ),
    (
        "normalised over the whole window",
        "take the statistic over the context, or running up to each step",
        _all(_op(*STATISTICS, "native_layer_norm", "native_group_norm"), lambda e: e.whole),
    ),
    (
        "runs backwards in time",
        "sum and scan from the first step to the last",
        _op("flip"),
    ),
)


def named(evidence: Evidence) -> tuple[str, str]:
    """Return the name of a known mistake and its repair; both empty where nothing is recognised."""
    for pattern, repair, test in KNOWN:
        if test(evidence):
            return pattern, repair
    return "", ""
