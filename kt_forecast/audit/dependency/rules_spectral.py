"""Fourier transforms: every frequency depends on the whole axis, and so does every step back."""

from kt_forecast.audit.dependency.calls import Call, Result, rule
from kt_forecast.audit.dependency.labels import greatest, thin, unknown

NOTE = "a Fourier transform mixes its axis: a causal convolution through it cannot be proved so"


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def _transformed(call: Call) -> Result:
    x, axes = call.args[:2]
    before = call.shadow(x).latest
    latest = greatest(before, axes)
    if bool((thin(latest) > thin(before)).any()):
        call.run.note(NOTE)
    return unknown(latest)
