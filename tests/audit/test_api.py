"""What a user calls: contracts, nests, verdicts, findings, reports, counter-examples."""

import json
import re
import secrets
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from xml.etree import ElementTree as ET

import pytest
import torch
from torch import nn

from kt_forecast.audit import (
    ContractError,
    Counterexample,
    LeakError,
    audit,
    causal,
    clock,
    forecast,
    kt,
    packed,
    rows_independent,
    streaming,
    strict,
)
from kt_forecast.audit.command import audit_file, exit_code

X = torch.randn(2, 11, 4, generator=torch.Generator().manual_seed(0))
QUICK = {"modes": ("evaluation",), "moments": 4, "skip": ("compiled",)}


class Ahead(nn.Module):
    """Reads so many steps ahead, or behind."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        pad = (0, 0, 0, self.steps) if self.steps > 0 else (0, 0, -self.steps, 0)
        moved = nn.functional.pad(x, pad)
        moved = moved[:, self.steps :] if self.steps > 0 else moved[:, : x.shape[1]]
        return self.out(moved)


@pytest.mark.parametrize(
    ("ahead", "contract", "verdict"),
    [
        (0, causal(), "proved"),
        (2, causal(), "leak"),
        (0, strict(), "leak"),
        (-1, strict(), "proved"),
        (2, streaming(2), "proved"),
        (3, streaming(2), "leak"),
    ],
)
def test_a_contract_along_time_allows_what_it_says(ahead, contract, verdict):
    report = audit(Ahead(ahead), X, contract, **QUICK)
    assert report.verdict == verdict, report.text()
    if verdict == "leak":
        allowed = {"causal": 0, "strict": -1}.get(contract.name, 2)
        assert report.findings[0].ticks == ahead - allowed


def test_nothing_is_called_proved_without_tracking():
    report = audit(Ahead(0), X, causal(), **QUICK | {"skip": ["tracking", "compiled"]})
    assert report.verdict == "unproven"
    assert any("not followed" in reason for reason in report.reasons)


def test_a_condition_is_named():
    class Masked(nn.Module):
        def forward(self, x):
            seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
            return (x @ x.mT).masked_fill(~seen, -1e9).softmax(-1) @ x

    report = audit(Masked(), X, causal(), **QUICK)
    assert report.verdict == "conditional"
    assert "-1e+09" in report.conditions[0]


def test_axes_are_found_by_varying_the_length_and_said():
    class Last(nn.Module):
        def forward(self, x):
            return nn.functional.pad(x, (1, 0))[..., :-1].sum(1), x.mean((1, 2))

    report = audit(Last(), torch.randn(2, 5, 11), causal(axis=2), **QUICK)
    assert report.verdict == "proved"
    assert report.scope["axes"]["outputs"] == {"0": 1}
    assert report.scope["not_judged"] == ["1"]


@dataclass
class Answers:
    question: torch.Tensor
    response: torch.Tensor


class Shifted(nn.Module):
    def __init__(self, own):
        super().__init__()
        self.own = own
        self.answer, self.asked = nn.Embedding(2, 4), nn.Embedding(6, 4)

    def forward(self, batch):
        answers = self.answer(batch.response).cumsum(1)
        if not self.own:
            answers = nn.functional.pad(answers, (0, 0, 1, 0))[:, :-1]
        return {"logits": (answers + self.asked(batch.question)).sum(-1)}


@pytest.mark.parametrize("own", [False, True])
def test_a_dataclass_of_tokens_goes_in_and_a_mapping_comes_out(own):
    g = torch.Generator().manual_seed(0)
    question = torch.randint(0, 6, (2, 9), generator=g)
    batch = Answers(question, torch.randint(0, 2, (2, 9), generator=g))
    report = audit(Shifted(own), batch, kt(), **QUICK)
    assert report.verdict == ("leak" if own else "proved")
    assert {f.input for f in report.findings} == ({"response"} if own else set())


class Forecaster(nn.Module):
    def __init__(self, peeks):
        super().__init__()
        self.peeks = peeks
        self.out = nn.Linear(8, 3)

    def forward(self, values, calendar):
        ahead = values[:, 8:] if self.peeks else 0.0
        return self.out(values[:, :8]) + calendar[:, 8:] + ahead


@pytest.mark.parametrize(("peeks", "known"), [(False, True), (True, True), (False, False)])
def test_what_is_known_in_advance_must_be_declared(peeks, known):
    batch = {"values": torch.randn(2, 11), "calendar": torch.randn(2, 11)}
    contract = forecast(8, 3, known=["calendar"] if known else [])
    report = audit(Forecaster(peeks), batch, contract, **QUICK)
    assert report.verdict == ("leak" if peeks or not known else "proved")
    guilty = {"values"} if peeks else {"calendar"}
    assert {f.input for f in report.findings} == (set() if report.verdict == "proved" else guilty)
    with pytest.raises(ContractError, match="known"):
        audit(Forecaster(peeks), batch, forecast(8, 3, known=["holidays"]), **QUICK)


@pytest.mark.parametrize("apart", [False, True])
def test_packed_documents_are_each_a_world(apart):
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1]])

    class Packed(nn.Module):
        def forward(self, x):
            seen = torch.ones(9, 9, dtype=torch.bool).tril()
            if apart:
                seen = seen & (documents[0] == documents[0, :, None])
            return (x @ x.mT).masked_fill(~seen, -torch.inf).softmax(-1) @ x

    report = audit(Packed(), torch.randn(1, 9, 4), packed(documents), **QUICK)
    assert report.verdict == ("proved" if apart else "leak")


def test_rows_that_see_each_other_leak():
    class Mean(nn.Module):
        def forward(self, x):
            return x + x.mean(0, keepdim=True)

    report = audit(Mean(), X, rows_independent(), **QUICK)
    assert report.verdict == "leak"
    assert report.findings[0].input == "another row"
    assert audit(Ahead(3), X, rows_independent(), **QUICK).verdict == "proved"


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        (nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"), "circular padding"),
        (nn.Conv1d(4, 4, 3, padding=1), "padding reaches ahead"),
        (nn.MaxPool1d(3, 1, 1), "pooling window reaches t+1"),
        (nn.BatchNorm1d(4), "batch statistics over time"),
    ],
)
def test_known_mistakes_are_named(model, pattern):
    modes = ("training",) if isinstance(model, nn.BatchNorm1d) else ("evaluation",)
    report = audit(model, X.mT.contiguous(), causal(axis=2), **QUICK | {"modes": modes})
    assert report.findings[0].pattern == pattern
    assert report.findings[0].repair


def test_a_mask_that_shows_the_future_only_is_called_inverted():
    class Inverted(nn.Module):
        def forward(self, x):
            hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(-1)
            return (x @ x.mT).masked_fill(hidden, -torch.inf).softmax(-1) @ x

    report = audit(Inverted(), X, causal(), **QUICK)
    assert report.findings[0].pattern == "mask inverted"
    assert report.findings[0].source.startswith("tests/audit/test_api.py")
    assert report.findings[0].chain


def test_a_counterexample_replays_from_its_file(tmp_path):
    model = Ahead(2)
    report = audit(model, X, causal(), **QUICK)
    report.findings[0].counterexample.save(tmp_path / "leak.npz")
    again = Counterexample.load(tmp_path / "leak.npz")
    assert again.replay(model) == pytest.approx(report.findings[0].effect, rel=1e-3)
    assert again.replay(Ahead(0)) == 0.0


def test_a_report_is_written_in_every_form():
    report = audit(Ahead(2), X, causal(), **QUICK)
    found = json.loads(report.to_json())
    assert found["verdict"] == "leak"
    assert found["findings"][0]["ticks"] == 2
    assert "proved" in report.scope["not_covered"] or report.scope["modes"] == ["evaluation"]
    suite = ET.fromstring(report.to_junit())  # noqa: S314 - our own
    assert int(suite.get("failures")) >= 1
    page = report.to_html()
    assert "<svg" in page
    assert "http" not in page
    with pytest.raises(LeakError):
        report.raise_for_leaks()
    assert audit(Ahead(0), X, causal(), **QUICK).to_junit().count("<failure") == 0


def test_state_between_calls_is_found_and_undone():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.kept = []

        def forward(self, x):
            before = sum(self.kept) if self.kept else 0.0
            self.kept.append(x[:, -1:].detach())
            return x + before

    model = Keeps()
    report = audit(model, X, causal(), **QUICK)
    assert report.verdict == "leak"
    assert report.findings[0].method == "replay"
    assert model.kept == []


def test_what_cannot_be_audited_is_refused_in_a_sentence():
    with pytest.raises(ContractError, match="no tensor"):
        audit(Ahead(0), [], causal())
    with pytest.raises(ContractError, match="cannot be called"):
        audit(Ahead(0), torch.randn(2, 3), causal())
    with pytest.raises(ContractError, match="clock for 'y'"):
        audit(Ahead(0), X, clock({"y": torch.arange(11)[None]}, torch.arange(11)[None]))
    with pytest.raises(ContractError, match="no stage"):
        audit(Ahead(0), X, causal(), skip=["guessing"])


FILE = """
import torch
from torch import nn

def build():
    return nn.GRU(4, 4, batch_first=True), torch.randn(2, 9, 4)

def bidirectional():
    return nn.GRU(4, 4, batch_first=True, bidirectional=True), torch.randn(2, 9, 4)

def nothing():
    return None
"""


def test_a_file_is_audited_and_the_exit_code_says_the_verdict(tmp_path):
    place = tmp_path / "model.py"
    place.write_text(FILE)
    proved, leak = (audit_file(f"{place}:{name}", "causal") for name in ("build", "bidirectional"))
    assert (exit_code(proved, strictly=True), exit_code(leak, strictly=False)) == (0, 1)
    for target in (f"{place}:nothing", f"{place}:missing", "nowhere.py:build"):
        with pytest.raises(ContractError):
            audit_file(target, "causal")


def test_what_a_target_lacks_is_said_in_a_sentence(tmp_path):
    place = tmp_path / "model.py"
    place.write_text(FILE)
    bare = tmp_path / "bare.py"
    bare.write_text("number = 3\n")
    there = f"{place}:build, {place}:bidirectional, {place}:nothing"
    for target, said in {
        f"{place}": f"{place}: is named without its function; accepted are {there}",
        f"{place}:": f"{place}: is named without its function; accepted are {there}",
        f"{place}:missing": f"{place}: has no function 'missing'; accepted are {there}",
        f"{bare}:number": f"{bare}: has no function 'number', and defines none; accepted is",
        "nowhere.py:build": "'nowhere.py' is no file; accepted is FILE.py:FUNCTION",
        f"{tmp_path}:build": f"'{tmp_path}' is no file; accepted is FILE.py:FUNCTION",
    }.items():
        with pytest.raises(ContractError, match=re.escape(said)) as refused:
            audit_file(target, "causal")
        assert "Error" not in str(refused.value)
    bare.write_text("def build():\n    return None.width\n")
    with pytest.raises(ContractError, match="AttributeError: 'NoneType'"):
        audit_file(f"{bare}:build", "causal")


def test_the_auditor_imports_nothing_else_of_the_package():
    script = (
        "import sys\nsys.modules.update(dict.fromkeys(['polars', 'pandas', 'jaxtyping', 'mlflow']))"
        "\nimport kt_forecast.audit, kt_forecast.audit.command\n"
        "print([m for m in sys.modules if m.startswith('kt_forecast.') "
        "and not m.startswith('kt_forecast.audit')])"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert told.stdout.strip() == "[]", told.stderr


class Reseeded(nn.Module):
    """Takes a seed that nobody gave, and drops out after it."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def forward(self, x):
        torch.manual_seed(self.seed())
        return nn.functional.dropout(x, 0.5, self.training)


def asked():
    return torch.seed()


@pytest.mark.parametrize("seed", [asked, partial(secrets.randbits, 30)])
def test_a_model_that_seeds_itself_is_not_accused(seed):
    report = audit(Reseeded(seed), X, causal(), moments=4)
    assert report.verdict == "proved", report.text()
