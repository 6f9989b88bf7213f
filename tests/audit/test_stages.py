"""Each stage finds a planted leak that no other finds, and accuses no honest twin."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kt_forecast.audit import (
    STAGES,
    CoinFlips,
    ContractError,
    Counterexample,
    audit,
    causal,
    clock,
    kt,
)

STEPS = 11
TIME = torch.arange(STEPS)[None]
LENGTHS = torch.tensor([11, 8, 5])
LEFT = torch.arange(STEPS) >= STEPS - LENGTHS[:, None]


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = seeded(3, STEPS, 4)


def only(report):
    """Return the stages that found something."""
    return {stage.name for stage in report.stages if stage.outcome == "found"}


def stage(report, name):
    return next(stage for stage in report.stages if stage.name == name)


def without(*kept):
    """Leave out what costs most and is not looked at."""
    return [name for name in ("compiled", "coin flips") if name not in kept]


class Attends(nn.Module):
    """Attends to steps up to its own; honest ones leave padding out."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.key = nn.Linear(4, 4)

    def forward(self, x, mask):
        n = x.shape[1]
        visible = torch.ones(n, n, dtype=torch.bool).tril()[None]
        if self.honest:
            visible = visible & mask[:, None] | torch.eye(n, dtype=torch.bool)
        scores = (x @ self.key(x).mT).masked_fill(~visible, -1e30)
        return scores.softmax(-1) @ x


@pytest.mark.parametrize("honest", [True, False])
def test_padding_on_the_left_is_part_of_the_past_and_only_its_stage_sees_that(honest):
    torch.manual_seed(0)
    model = Attends(honest)
    contract = clock({"x": TIME}, TIME)
    report = audit(model, {"x": X, "mask": LEFT}, contract, skip=without(), moments=4)
    assert only(report) == (set() if honest else {"padding"}), report.text()
    assert "padded on the left (by its name)" in stage(report, "padding").detail
    if honest:
        assert report.verdict != "leak"
        assert "proved that none is read" in stage(report, "padding").detail
    else:
        [finding] = report.findings
        assert finding.method == "padding"
        assert finding.counterexample.replay(model) == pytest.approx(finding.effect)


class Pooled(nn.Module):
    """Divides a running sum by the number of real steps, or by the padded length."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x, lengths):
        real = torch.arange(x.shape[1]) < lengths[:, None]
        count = lengths if self.honest else torch.full_like(lengths, x.shape[1])
        return (x * real[..., None]).sum(1) / count[:, None]


@pytest.mark.parametrize("honest", [True, False])
def test_an_answer_must_not_depend_on_the_amount_of_padding(honest):
    contract = clock({}, torch.zeros(1, dtype=torch.int64))
    model = Pooled(honest)
    batch = {"x": X, "lengths": torch.tensor([9, 8, 5])}
    report = audit(model, batch, contract, skip=without(), moments=2)
    assert ("padding" in only(report)) is not honest, report.text()
    assert "lengths holds lengths (by its name)" in stage(report, "padding").detail
    for finding in report.findings:
        assert finding.counterexample.kind == "3 steps more"
        assert finding.counterexample.replay(model) > 0


class Shared(nn.Module):
    """Puts numbers for an empty row into its own answer, or into everybody's."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x, mask):
        weight = mask / mask.sum(1, keepdim=True)
        mean = (x * weight[..., None]).nan_to_num(0.0 if self.honest else 1.0)
        empty = torch.zeros(()) if self.honest else (~mask.any(1)).float().sum()
        return mean.cumsum(1) + empty


@pytest.mark.parametrize("honest", [True, False])
def test_a_row_of_padding_alone_changes_no_other_row(honest):
    right = LEFT.flip(1)
    contract = clock({"x": TIME}, torch.full_like(TIME, STEPS))
    skip = [*without(), "rows", "tracking"]
    report = audit(Shared(honest), {"x": X, "mask": right}, contract, skip=skip, moments=2)
    assert only(report) == (set() if honest else {"padding"}), report.text()
    assert all("masked as a whole" in str(f.counterexample) for f in report.findings)


def test_padding_is_declared_where_neither_name_nor_values_say_it():
    class Weighs(nn.Module):
        def forward(self, x, here):
            return (x * here[..., None]).cumsum(1)

    batch = {"x": X, "here": LEFT.flip(1).long()}
    contract = clock({"x": TIME}, TIME)
    quick = {"skip": without(), "moments": 2, "modes": ["evaluation"]}
    assert stage(audit(Weighs(), batch, contract, **quick), "padding").outcome == "skipped"
    report = audit(Weighs(), batch, contract, padding="here", **quick)
    assert "here is a mask of real steps" in stage(report, "padding").detail
    with pytest.raises(ContractError, match="neither a mask"):
        audit(Weighs(), batch, contract, padding="x", **quick)


class Tracer(nn.Module):
    """A knowledge tracer with a loss of its own."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.question, self.answer = nn.Embedding(10, 4), nn.Embedding(2, 4)
        self.memory = nn.GRU(8, 8, batch_first=True)
        self.out = nn.Linear(12, 1)

    def forward(self, question, response):
        told = F.pad(self.answer(response), (0, 0, 1, 0))[:, :-1]
        asked = self.question(question)
        states = self.memory(torch.cat([asked, told], -1))[0]
        return self.out(torch.cat([states, asked], -1))[..., 0]

    def loss(self, batch):
        logits, answers = self(**batch), batch["response"].float()
        if self.kind == "current answer":
            logits = logits + self.answer(batch["response"]).sum(-1)
        if self.kind == "statistics of the batch":
            logits = logits + answers.roll(1, 0)
        return F.binary_cross_entropy_with_logits(logits.flatten(), answers.flatten())


def answers(rows=3, steps=STEPS):
    draw = torch.Generator().manual_seed(1)
    return {
        "question": torch.randint(0, 10, (rows, steps), generator=draw),
        "response": torch.randint(0, 2, (rows, steps), generator=draw),
    }


@pytest.mark.parametrize("kind", ["honest", "current answer", "statistics of the batch"])
def test_a_leak_of_the_training_step_alone_is_found_there(kind):
    torch.manual_seed(0)
    model = Tracer(kind)
    report = audit(model, answers(), kt(), skip=without(), moments=4)
    assert "Tracer.loss; labels: response" in stage(report, "training step").detail
    if kind == "honest":
        assert report.verdict == "proved", report.text()
        return
    assert only(report) == {"training step"}, report.text()
    first = report.findings[0]
    assert (first.method, first.output) == ("training", "prediction")
    assert first.counterexample.replay(model) == pytest.approx(first.effect)


def test_a_training_step_is_given_as_a_function_and_its_counterexample_is_saved(tmp_path):
    torch.manual_seed(0)
    model = Tracer("honest")

    def step(batch):
        logits = model(**batch) + batch["response"]
        return F.mse_loss(logits, batch["response"].float())

    report = audit(model, answers(), kt(), training=step, skip=without(), moments=2)
    assert only(report) == {"training step"}
    example = report.findings[0].counterexample
    example.save(tmp_path / "leak.npz")
    again = Counterexample.load(tmp_path / "leak.npz")
    assert again.replay(model, step) == pytest.approx(example.effect)
    with pytest.raises(ContractError, match="cannot be called"):
        audit(model, answers(), kt(), training=lambda batch: batch["absent"], skip=without())


@pytest.mark.parametrize("ahead", [0, 1])
def test_predictions_that_a_training_step_returns_keep_to_the_contract(ahead):
    def step(x):
        return {"loss": x.square().mean(), "guess": x.cumsum(1).roll(-ahead, 1)}

    report = audit(lambda x: x.cumsum(1), X, causal(), training=step, skip=without(), moments=2)
    assert stage(report, "training step").outcome == ("found" if ahead else "proved")
    assert report.verdict == ("leak" if ahead else "proved"), report.text()


class Language(nn.Module):
    """A language model whose call returns its loss, shifted or not."""

    def __init__(self, shifted):
        super().__init__()
        self.shifted = shifted
        self.embed, self.memory = nn.Embedding(7, 8), nn.GRU(8, 8, batch_first=True)
        self.out = nn.Linear(8, 7)

    def forward(self, tokens, labels):
        logits = self.out(self.memory(self.embed(tokens))[0])
        ahead = (logits[:, :-1], labels[:, 1:]) if self.shifted else (logits, labels)
        loss = F.cross_entropy(ahead[0].flatten(0, 1), ahead[1].flatten())
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize("shifted", [True, False])
def test_labels_that_are_the_inputs_must_be_shifted(shifted):
    torch.manual_seed(0)
    tokens = torch.randint(0, 7, (3, STEPS))
    batch = {"tokens": tokens, "labels": tokens.clone()}
    known = {"tokens": TIME, "labels": TIME}
    contract = clock(known, {"logits": TIME})
    report = audit(Language(shifted), batch, contract, skip=["compiled"], moments=4)
    found = set() if shifted else {"training step", "coin flips"}
    assert only(report) == found, report.text()


def test_teacher_forcing_on_the_current_answer_is_learnt_from_coin_flips(tmp_path):
    torch.manual_seed(0)
    skip = ["compiled", "training step"]
    said = {}
    for kind in ("honest", "current answer"):
        model = Tracer(kind)
        report = audit(model, answers(), kt(), skip=["compiled"], moments=2)
        said[kind] = stage(report, "coin flips")
    (finding,) = [f for f in report.findings if f.method == "coin flips"]
    finding.counterexample.save(tmp_path / "leak.npz")
    again = CoinFlips.load(tmp_path / "leak.npz")
    assert again.replay(model) == pytest.approx(finding.effect)
    assert abs(again.replay(Tracer("honest"))) < finding.effect / 4
    assert "CoinFlips.load" in report.to_html()
    assert said["honest"].outcome == "passed", said
    assert said["current answer"].outcome == "found", said
    report = audit(Tracer("honest"), answers(), kt(), skip=skip, moments=2)
    assert stage(report, "coin flips").outcome == "skipped"


def nearest(labels, *, peeks):
    """Score by the answer of the student before, or by a neighbour's of the same event."""
    shown = labels.float() if peeks else labels.float().roll(1, 1)
    right = shown[labels == 1].mean() - shown[labels == 0].mean()
    return float(0.5 + right / 2)


@pytest.mark.parametrize("peeks", [False, True])
def test_a_pipeline_is_scored_on_coin_flips(peeks):
    torch.manual_seed(0)
    batch = answers(rows=8, steps=40)
    report = audit(
        Tracer("honest"), batch, kt(), skip=["compiled"], moments=2, modes=["evaluation"],
        pipeline=lambda labels: nearest(labels, peeks=peeks),
    )  # fmt: skip
    assert only(report) == ({"coin flips"} if peeks else set()), report.text()
    if peeks:
        assert report.verdict == "leak"
        assert "coin flips in place of response" in str(report.findings[0])
        assert "coin flips" in report.to_json()
        assert "coin flips" in report.to_html()
        finding = report.findings[0]
        example = finding.counterexample
        assert finding.effect > 0.3
        assert example.labels["response"].unique().tolist() == [0, 1]
        assert example.replay(lambda y: nearest(y, peeks=True)) == pytest.approx(finding.effect)
        assert abs(example.replay(lambda y: nearest(y, peeks=False))) < 0.1


def test_flips_are_shared_within_an_event():
    """Rows of one question share an answer: a model that reads the row above knows it."""
    batch = answers(rows=4, steps=12)
    event = torch.arange(12)[None].expand(4, -1) // 2
    torch.manual_seed(0)
    report = audit(Tracer("honest"), batch, kt(event), skip=["compiled"], moments=4)
    assert {"search", "training step", "coin flips"} <= only(report), report.text()


class Compiled(nn.Module):
    """Sees the future where a compiler really has made code of it."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        return x.cumsum(1) + (0.0 if self.honest else ahead(x))


@torch.library.custom_op("kt_forecast_tests::ahead", mutates_args=())
def ahead(x: torch.Tensor) -> torch.Tensor:
    """Return nothing of the future, where nobody fuses it."""
    return torch.zeros_like(x)


@ahead.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.mark.parametrize("honest", [True, False])
def test_a_model_is_really_compiled(honest, monkeypatch):
    if not honest:
        from kt_forecast.audit.running import Runner

        made = Runner.compiled

        def miscompiled(self, compiler):
            call = made(self, compiler)
            return lambda inputs: call(inputs) + inputs["input"].flip(1)

        monkeypatch.setattr(Runner, "compiled", miscompiled)
    report = audit(Compiled(honest=True), X, causal(), modes=["evaluation"], moments=2)
    assert stage(report, "compiled").outcome == ("passed" if honest else "found"), report.text()
    assert any("compiled by" in name for name in report.scope["back_ends"])
    if honest:
        assert "1 graphs" in stage(report, "compiled").detail


def test_every_back_end_is_listed_with_what_ran_or_why_not():
    class Attention(nn.Module):
        def forward(self, x):
            q = x[:, None]
            return F.scaled_dot_product_attention(q, q, q, is_causal=True)[:, 0]

    report = audit(Attention(), X, causal(), skip=["compiled"], moments=2)
    listed = report.scope["back_ends"]
    for word in ("math", "flash", "efficient", "half precision", "float16", "gradients", "GPU"):
        said = [value for name, value in listed.items() if word in name]
        assert said, listed
        assert all(v == "ran" or v.startswith("skipped: ") for v in said), listed
    assert listed["evaluation, own weights, attention by the math kernel"] == "ran"
    plain = audit(nn.Linear(4, 4), X, causal(), skip=["compiled"], moments=2)
    unused = plain.scope["back_ends"]["evaluation, own weights, attention by the flash kernel"]
    assert unused == "skipped: the model calls no fused attention"
    assert [s.name for s in plain.stages] == ["probe", *STAGES]


class Kernel(nn.Module):
    """Drops its mask where one kernel computes attention."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def forward(self, x):
        masked = self.honest or not torch.backends.cuda.flash_sdp_enabled()
        masked = masked or torch.backends.cuda.math_sdp_enabled()
        q = x[:, None]
        return F.scaled_dot_product_attention(q, q, q, is_causal=masked)[:, 0]


@pytest.mark.parametrize("honest", [True, False])
def test_a_mask_that_one_attention_kernel_drops_is_found(honest):
    report = audit(Kernel(honest), X, causal(), skip=["compiled"], moments=2)
    assert only(report) == (set() if honest else {"back ends"}), report.text()


def test_two_modes_that_run_the_same_operations_are_followed_once():
    class Draws(nn.Module):
        def forward(self, x):
            x = x + 1 if self.training else x + 1.0
            return F.dropout(x, 0.5, self.training)

    shared = audit(nn.LSTM(4, 4, batch_first=True), X, causal(), skip=["compiled"], moments=2)
    assert "training runs the operations of evaluation" in stage(shared, "tracking").detail
    apart = audit(Draws(), X, causal(), skip=["compiled"], moments=2)
    assert "training holds" in stage(apart, "tracking").detail


class Chunks(nn.Module):
    """Sums chunks to their ends where a sequence is longer than two of them."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest
        self.chunk_size = 150

    def forward(self, x):
        n = self.chunk_size
        if self.honest or x.shape[1] <= 2 * n:
            return x.cumsum(1)
        return torch.cat([p.sum(1, keepdim=True).expand_as(p) for p in x.split(n, 1)], 1)


@pytest.mark.parametrize("honest", [True, False])
def test_sequences_beyond_what_attributes_name_are_followed(honest):
    report = audit(Chunks(honest), seeded(2, 13, 3), causal(), skip=["compiled"], moments=4)
    assert report.scope["lengths"] == [13, 307]
    assert report.verdict == ("proved" if honest else "leak"), report.text()
    short = Chunks(True)
    short.chunk_size = 5000
    report = audit(short, seeded(2, 13, 3), causal(), skip=["compiled"], moments=2)
    assert "up to 5000 are not exceeded" in stage(report, "longer").detail


class Far(nn.Module):
    """Reads one later step, in long sequences only or not at all."""

    def __init__(self, beyond):
        super().__init__()
        self.beyond = beyond

    def forward(self, x):
        return x.roll(-1, 1) if x.shape[1] > self.beyond else x.cumsum(1)


@pytest.mark.parametrize(("beyond", "verdict"), [(10**6, "proved"), (400, "leak")])
def test_a_long_sequence_is_followed_at_its_length_and_the_rest_done_with_fewer(beyond, verdict):
    report = audit(Far(beyond), seeded(2, 500, 2), causal(), skip=["compiled"], moments=4)
    assert report.verdict == verdict, report.text()
    assert report.scope["lengths"] == [500, 257]
    assert "all else was done with 257 steps" in report.scope["shortened"]
    if verdict == "leak":
        assert report.findings[0].counterexample.replay(Far(beyond)) > 0
        assert report.findings[0].op == "roll"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("kind", ["honest", "current answer"])
def test_what_stands_on_a_gpu_is_audited_as_on_the_cpu(kind):
    reports = []
    for device in ("cpu", "cuda"):
        batch = {name: x.to(device) for name, x in answers(rows=4, steps=12).items()}
        event = torch.arange(12, device=device)[None].expand(4, -1)
        torch.manual_seed(0)
        model = Tracer(kind).to(device)
        reports.append(audit(model, batch, kt(event), skip=["compiled"], moments=4))
    outcomes = [{one.name: one.outcome for one in report.stages} for report in reports]
    assert reports[0].verdict == reports[1].verdict
    assert outcomes[0] == outcomes[1], reports[1].text()
