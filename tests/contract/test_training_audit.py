"""The audit of a trained run looks at the predictions that its own loss weighs."""

import pytest
import torch
from contract.systems import interactions, tracer
from contract.test_forecasters import batch_for, forecaster, shape

from kt_forecast.forecaster.auditing import audit_forecaster
from kt_forecast.tasks.forecasting import SeriesForecaster
from kt_forecast.tasks.knowledge_tracing import Tracer
from kt_forecast.tracer.auditing import audit_tracer


class TrainedOnAnswers(Tracer):
    """Its call is honest; what its loss weighs has seen the answer."""

    def _run(self, batch, state):
        logits, mixed, state = super()._run(batch, state)
        peek = 1e-2 * batch.response if self.in_loss else 0.0
        return logits + peek, mixed, state

    in_loss = False

    def loss(self, batch):
        self.in_loss = True
        try:
            return super().loss(batch)
        finally:
            self.in_loss = False


class TrainedOnSteps(SeriesForecaster):
    """Its call is honest; what its loss weighs has seen the steps ahead."""

    def loss(self, batch):
        honest = self._losses
        ahead = batch.values[..., -1].mean()
        self._losses = lambda out, *rest: honest(out + 1e-2 * ahead, *rest)
        try:
            return super().loss(batch)
        finally:
            self._losses = honest


@pytest.mark.parametrize("leaking", [False, True])
def test_a_tracer_whose_loss_alone_knows_the_answer_is_found(leaking):
    model = tracer("gpt", "shifted")
    if leaking:
        model.__class__ = TrainedOnAnswers
    report = audit_tracer(model, interactions(2, 9, bundles=True), moments=1)
    assert (report.verdict == "leak") == leaking, report.text()
    assert [f.method for f in report.findings] == ["training"] * len(report.findings)
    assert {f.input for f in report.findings} == ({"response"} if leaking else set())
    assert not {"_next_question", "_losses"} & set(vars(model))


@pytest.mark.parametrize("leaking", [False, True])
def test_a_forecaster_whose_loss_alone_knows_the_steps_ahead_is_found(leaking):
    torch.manual_seed(0)
    model = forecaster("gpt", {}, shape(), dense=True)
    if leaking:
        model.__class__ = TrainedOnSteps
    report = audit_forecaster(model, batch_for(model, 2), moments=2)
    (stage,) = [s for s in report.stages if s.name == "training step"]
    assert stage.outcome == ("found" if leaking else "proved"), stage
    assert {f.method for f in report.findings} == ({"training"} if leaking else set())
