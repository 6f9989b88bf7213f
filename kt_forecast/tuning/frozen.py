"""Optuna's trials in this package's words."""

from datetime import datetime

from optuna.trial import FrozenTrial, TrialState

from kt_forecast.tuning.ledger import State, Trial

STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def seen(frozen: FrozenTrial) -> Trial:
    """Return a trial in this package's words."""
    begun, ended = frozen.datetime_start, frozen.datetime_complete
    seconds = 0.0
    if begun is not None:
        seconds = ((ended or datetime.now()) - begun).total_seconds()
    state = STATES[frozen.state]
    return Trial(
        number=frozen.number,
        state=state,
        values=tuple(frozen.values) if state == "complete" and frozen.values else (),
        params=dict(frozen.params or frozen.system_attrs.get("fixed_params", {})),
        notes=dict(frozen.user_attrs),
        reports=dict(frozen.intermediate_values),
        seconds=seconds,
    )
