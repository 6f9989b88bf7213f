"""A run's record in which every part of the report has something to show."""

import dataclasses

from kt_forecast.report import (
    CalibrationBin,
    Check,
    Citation,
    CurveRow,
    DataFacts,
    Mastery,
    Protocol,
    RunRecord,
    Score,
    SeenBin,
    SplitFacts,
    SplitPart,
    SystemFacts,
    Verdict,
)

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"alert(1)\">$\\frac{1$"


def score(value, half=0.01):
    return Score(value=value, low=value - half, high=value + half)


def a_record(name="gpt", rival="logistic", **changes):
    """A small run in which every part of the page has something to show."""

    def of(auc):
        return {"auc": score(auc), "auc_within_student": score(auc - 0.05), "nll": score(0.5)}

    record = RunRecord(
        title="A run",
        created="2026-01-05",
        data=DataFacts(
            name="sample",
            n_students=40,
            n_questions=30,
            n_concepts=2,
            n_interactions=1234,
            share_correct=0.6,
            data_hash="d" * 64,
            licence="CC0",
            citation=Citation(title="The data", url="https://example.org/data"),
            notes=("Two rows were merged.",),
        ),
        split=SplitFacts(
            scheme="By student.",
            parts=(SplitPart(name="train", n_students=30, n_interactions=900),),
            split_hash="e" * 64,
        ),
        system=SystemFacts(
            name=name,
            paper=Citation(title="The paper", authors="A. Author", year=2020),
            promises={"causality": "step"},
            departures=("One layer.",),
            n_parameters=1000,
        ),
        protocols=(
            Protocol(
                name="full",
                what="Held-out students.",
                n_interactions=300,
                n_students=10,
                model=of(0.8),
                baselines={rival: of(0.75), "item_mean": of(0.7)},
                differences={rival: {"auc": score(0.05), "nll": score(0.0)}},
            ),
        ),
        verdict=Verdict(
            verdict="unproven",
            scope={"contract": "kt", "modes": ["evaluation", "training"]},
            tried=(Check(name="Replace the future", outcome="passed", detail="both modes"),),
            not_covered=("Other lengths.",),
            control=score(0.5),
        ),
        settings={"seed": 0, "training": {"clip": 1.0}},
        curve=tuple(
            CurveRow(epoch=e, loss=1 / e, metrics={"auc": 0.7, "nll": 1 / e}) for e in (1, 2, 3)
        ),
        best_epoch=3,
        calibration={
            who: (
                CalibrationBin(predicted=0.2, observed=0.3, count=100),
                CalibrationBin(predicted=0.7, observed=0.6, count=200),
            )
            for who in (name, rival)
        },
        answers_seen={
            who: (
                SeenBin(first=0, last=0, count=10, auc=score(0.6)),
                SeenBin(first=1, last=None, count=290, auc=score(0.8)),
            )
            for who in (name, rival)
        },
        mastery=Mastery(
            student="s1",
            concepts=("fractions", "algebra"),
            p_correct=((0.4, 0.5), (0.6, 0.5), (0.6, 0.7)),
            practised=((0,), (0,), (0, 1)),
            responses=(0, 1, 1),
        ),
        environment={"Python": "3.11"},
        code_version="0.1.0",
        command="kt-forecast train pipelines/sample.toml",
        citations=(Citation(title="A work", url="https://example.org/work"),),
    )
    return dataclasses.replace(record, **changes)


def with_protocol(record, **changes):
    first = dataclasses.replace(record.protocols[0], **changes)
    return dataclasses.replace(record, protocols=(first,))
