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
        to_the_end: how many moments of the first half reach the last moment of all.
        rows_mix: whether rows of the batch move each other; None where there is one row.
    """

    finding: Finding
    part: nn.Module | None
    late_moments: int
    moments: int
    whole: bool
    past_matters: bool | None
    to_the_end: int = 0
    rows_mix: bool | None = None


Test = Callable[[Evidence], bool]

SOFTMAX = ("_softmax", "_safe_softmax", "_scaled_dot_product", "masked_fill", "bmm", "baddbmm")
RANKING = ("topk", "sort", "argsort", "kthvalue", "argmax", "argmin")
NORMS = ("native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm")
STATISTICS = ("mean", "var", "std", "norm", "amax", "amin", "aminmax", "sum", "logsumexp", "median")


def _op(*names: str) -> Test:
    return lambda e: any(e.finding.op.startswith(name) for name in names)


def _class(*names: str) -> Test:
    return lambda e: e.part is not None and any(n in type(e.part).__name__ for n in names)


def _all(*tests: Test) -> Test:
    return lambda e: all(test(e) for test in tests)


def _batch_norm(e: Evidence) -> bool:
    """Return whether statistics are those of the batch, not of a row as in instance norms."""
    kernel = _op("native_batch_norm", "_native_batch_norm", "batch_norm")(e)
    return _class("BatchNorm")(e) or (kernel and e.rows_mix is not False)


def _wraps(e: Evidence) -> bool:
    """Return whether few outputs, those at the beginning, reach the end of the window."""
    return 0 < e.to_the_end <= e.moments / 4 and e.finding.ticks < e.moments


def _normalises(e: Evidence) -> bool:
    """Return whether a statistic is subtracted or divided by on the way to the output."""
    ops = [link.op for link in e.finding.chain]
    after = ops[ops.index(e.finding.op) :] if e.finding.op in ops else []
    return _op("native_")(e) or bool({"sub", "rsub", "div", "sub_", "div_"} & set(after))


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
        "padding is read",
        "mask what is not real wherever steps are drawn together, and keep states as they were",
        lambda e: e.finding.method == "padding",
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
        lambda e: (
            getattr(e.part, "padding_mode", "") == "circular"
            or (_op("convolution", "_convolution")(e) and _wraps(e))
        ),
    ),
    (
        "padding reaches ahead",
        "pad by dilation * (kernel - 1) on the left and by nothing on the right",
        _all(
            _op("convolution", "_convolution", "reflection_pad", "replication_pad"),
            lambda e: e.to_the_end <= e.moments / 4,
        ),
    ),
    (
        "batch statistics over time",
        "normalise each step by itself (LayerNorm over channels), or by statistics up to it",
        _batch_norm,
    ),
    (
        "pooling window reaches t+{ticks}",
        "pool over the last steps: pad on the left by the window's length less one",
        _op("max_pool", "avg_pool", "adaptive_", "_adaptive"),
    ),
    (
        "selection ranked across time",
        "let each step choose by itself, or compare with a threshold fixed in advance",
        _op(*RANKING),
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
        _all(_op(*STATISTICS, *NORMS), _normalises, lambda e: e.whole),
    ),
    (
        "statistic of the whole window",
        "take the statistic over the context, or running up to each step",
        _all(_op(*STATISTICS), lambda e: e.whole),
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
            return pattern.format(ticks=evidence.finding.ticks), repair
    return "", ""
