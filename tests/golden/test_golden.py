"""Twenty updates on the embedded sample: a refactor leaves these losses as they are.

A change of numbers is a commit of its own that says why; it writes the file anew by

    UPDATE_GOLDEN=1 python -m pytest tests/golden
"""

import json
import os
from importlib import import_module
from pathlib import Path

import pytest
import torch

from kt_forecast.data.tables import load
from kt_forecast.nn.system import modules_in
from kt_forecast.sequences.batching import Batches
from kt_forecast.sequences.build import build, fit_vocabulary
from kt_forecast.tasks.knowledge_tracing import Tracer, TracingConfig

UPDATES = 20
GOLDEN = Path(__file__).with_name("losses.json")


def neural():
    for package in ("kt_forecast.zoo", "kt_forecast.baselines"):
        for name in modules_in(package):
            system = getattr(import_module(f"{package}.{name}"), "SYSTEM", None)
            # A whole network serves forecasts only.
            if system is not None and system.build is not None:
                yield package, name


@pytest.fixture(scope="module")
def sample():
    table = load("sample")
    vocabulary = fit_vocabulary(table)
    return build(table, vocabulary), vocabulary


def losses(package, name, sample):
    sequences, vocabulary = sample
    system = import_module(f"{package}.{name}").SYSTEM
    torch.manual_seed(0)
    settings = system.config(width=32)
    tracer = Tracer(system, settings, TracingConfig(**(system.tracing or {})), vocabulary)
    batches = Batches(tracer.fit_statistics(sequences), steps_per_batch=600)
    optimiser = torch.optim.AdamW(tracer.parameters(), lr=1e-3)
    found = []
    for batch in batches.epoch(0):
        total, count = tracer.loss(batch)
        optimiser.zero_grad()
        (total / count).backward()
        optimiser.step()
        found.append(round((total / count).item(), 6))
        if len(found) == UPDATES:
            return found
    raise AssertionError("the sample has too few batches")


@pytest.mark.parametrize(("package", "name"), list(neural()))
def test_losses_are_what_they_were(package, name, sample):
    found = losses(package, name, sample)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(golden | {name: found}, indent=1, sort_keys=True) + "\n")
        return
    assert name in golden, "a new system writes its losses with UPDATE_GOLDEN=1"
    assert found == pytest.approx(golden[name], rel=2e-4)
