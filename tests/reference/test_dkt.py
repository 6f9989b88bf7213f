"""DKT against the recurrence of its paper, one cell and one step at a time."""

from dataclasses import replace

import torch
from contract.systems import VOCABULARY, generic, interactions
from torch import nn

from kt_forecast.baselines.dkt import DKT, SYSTEM, DKTConfig, DKTState
from kt_forecast.tasks.knowledge_tracing import Tracer, TracingConfig


def test_as_published_it_knows_concepts_and_responses_and_no_question():
    tracing = TracingConfig.model_validate(SYSTEM.tracing)
    tracer = generic(Tracer(SYSTEM, DKTConfig(width=8), tracing, VOCABULARY)).eval()
    batch = interactions(2, 9)
    logits, _ = tracer(batch)
    other, _ = tracer(replace(batch, question=(batch.question + 1) % 10))
    assert torch.equal(other, logits)
    answered, _ = tracer(replace(batch, response=1 - batch.response))
    assert not torch.equal(answered, logits)
    assert [name for name, _ in tracer.named_buffers()] == []


def test_equals_a_loop_of_cells_that_skips_padding_and_starts_afresh():
    torch.manual_seed(0)
    module = DKT(DKTConfig(width=8, layers=2, dropout=0.0)).double().eval()
    x = torch.randn(3, 11, 8, dtype=torch.float64)
    valid = torch.rand(3, 11) < 0.7
    reset = (torch.rand(3, 11) < 0.2) & valid
    start = DKTState(*(torch.randn(2, 3, 2, 8, dtype=torch.float64)))
    y, after = module(x, start, valid=valid, reset=reset)
    cells = [nn.LSTMCell(8, 8).double() for _ in range(2)]
    for i, cell in enumerate(cells):
        cell.load_state_dict(
            {
                name.removesuffix(f"_l{i}"): value
                for name, value in module.memory.state_dict().items()
                if name.endswith(f"_l{i}")
            }
        )
    for row in range(3):
        hidden = list(start.hidden[row].split(1))
        memory = list(start.cell[row].split(1))
        for t in range(11):
            if reset[row, t]:
                hidden = [torch.zeros_like(h) for h in hidden]
                memory = [torch.zeros_like(c) for c in memory]
            if not valid[row, t]:
                continue
            given = x[row : row + 1, t]
            for i, cell in enumerate(cells):
                hidden[i], memory[i] = cell(given, (hidden[i], memory[i]))
                given = hidden[i]
            torch.testing.assert_close(y[row, t], given[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(after.hidden[row], torch.cat(hidden), atol=1e-12, rtol=0)
        torch.testing.assert_close(after.cell[row], torch.cat(memory), atol=1e-12, rtol=0)
