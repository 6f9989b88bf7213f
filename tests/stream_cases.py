"""Students by hand for tests of streams: as long as one says, answered at random."""

import torch

from kt_forecast.sequences.interactions import StudentSequences


def students(*steps: int, questions: int = 9, concepts: int = 4, seed: int = 0) -> StudentSequences:
    """Return students of some numbers of steps; some steps share their event."""
    draw = torch.Generator().manual_seed(seed)
    total = sum(steps)

    def whole(high: int) -> torch.Tensor:
        return torch.randint(high, (total,), generator=draw)

    return StudentSequences(
        start=torch.tensor([0, *steps]).cumsum(0),
        student=torch.arange(len(steps)),
        question=whole(questions + 1),
        concept_start=torch.arange(total + 1),
        concept=whole(concepts) + 1,
        response=whole(2),
        event=torch.cat([(whole(3)[:n] > 0).long().cumsum(0) for n in steps]),
        seconds=torch.rand(total, generator=draw) * 1e5,
        extras=torch.rand(total, 2, generator=draw),
        row=torch.arange(total),
        scored=torch.ones(total, dtype=torch.bool),
    )
