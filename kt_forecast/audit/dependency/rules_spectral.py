"""Fourier transforms: every frequency depends on the whole axis, and so does every step back."""

from kt_forecast.audit.dependency.calls import Call, Result, rule
from kt_forecast.audit.dependency.labels import NONE, greatest, top, unknown

NOTE = "a Fourier transform mixes its axis: a causal convolution through it cannot be proved so"


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def _transformed(call: Call) -> Result:
    x, axes = call.args[:2]
    latest = greatest(call.shadow(x).latest, axes)
    if top(latest) != NONE:
        call.run.note(NOTE)
    return unknown(latest)
