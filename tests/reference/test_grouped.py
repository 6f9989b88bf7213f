"""Steps that read the last steps of their own group, against a loop over pairs."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from kt_forecast.nn.grouped import Groups, Recent, near
from kt_forecast.nn.streams import Span, in_turn

ROWS, STREAMS, STEPS, GROUPS, WINDOW, SIZE = 2, 3, 37, 4, 5, 6


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(groups=GROUPS, seed=3):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, groups, (ROWS, STREAMS, STEPS), generator=draw)


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0.0)


def empty(groups=GROUPS, window=WINDOW, rows=ROWS):
    count = torch.zeros(rows, STREAMS, groups, dtype=torch.int64)
    slots = torch.zeros(rows, STREAMS, groups, window, 2 * SIZE, dtype=torch.float64)
    return Recent(count, (slots,))


def attended(x, group, state, window, span):
    groups = Groups(group, state, window, span)
    both = torch.cat([x, x], -1)
    read, _ = near(groups.placed(both, state.kept[0]), SIZE, groups.hidden)
    return groups.taken(read), Recent(groups.count, (groups.last(both, state.kept[0]),))


def whole(x, group, window=WINDOW, groups=GROUPS):
    span = Span.beginning(x[:, 0])
    return attended(x, group, empty(groups, window), window, span)


def by_pairs(x, group, window=WINDOW):
    y = torch.zeros_like(x)
    for row in range(ROWS):
        for stream in range(STREAMS):
            for t in range(x.shape[2]):
                own = group[row, stream]
                past = [j for j in range(t + 1) if own[j] == own[t]][-window:]
                keys = x[row, stream, past]
                y[row, stream, t] = (keys @ x[row, stream, t]).softmax(0) @ keys
    return y


@pytest.mark.parametrize("window", [1, 2, 5, 16, STEPS])
def test_each_step_reads_the_last_of_its_group(window):
    x = noise(ROWS, STREAMS, STEPS, SIZE).requires_grad_()
    weight = noise(ROWS, STREAMS, STEPS, SIZE, seed=2)
    got, wanted = whole(x, drawn(), window)[0], by_pairs(x, drawn(), window)
    same(got, wanted)
    slopes = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, wanted)]
    same(*slopes)


def test_one_group_as_wide_as_the_sequence_is_full_attention():
    x = noise(ROWS, STREAMS, STEPS, SIZE)
    got = whole(x, torch.zeros_like(drawn()), STEPS, 1)[0]
    same(got, scaled_dot_product_attention(x, x, x, is_causal=True, scale=1.0))


@pytest.mark.parametrize("scale", [1.0, 3.0, 40.0])
def test_no_later_group_moves_what_came_before(scale):
    x, group = noise(ROWS, STREAMS, STEPS, SIZE), drawn()
    base = whole(x, group)[0]
    for cut in range(1, STEPS):
        later = scale * noise(ROWS, STREAMS, STEPS - cut, SIZE, seed=cut)
        for other in (drawn(seed=cut), torch.zeros_like(group)):
            moved = whole(
                torch.cat([x[:, :, :cut], later], 2),
                torch.cat([group[:, :, :cut], other[:, :, cut:]], 2),
            )[0]
            assert torch.equal(moved[:, :, :cut], base[:, :, :cut])
            assert not torch.equal(moved[:, :, cut], base[:, :, cut])


@pytest.mark.parametrize("parts", [[1] * STEPS, [5, 20, 12], [36, 1], [2, 35]], ids=str)
def test_segments_equal_one_pass(parts):
    x, group = noise(ROWS, STREAMS, STEPS, SIZE), drawn()
    wanted, end = whole(x, group)
    state, at, pieces = empty(), 0, []
    for part in parts:
        before = torch.full((ROWS,), at)
        span = Span(before, before * 0 + part, part, at, at, whole=True)
        here = slice(at, at + part)
        y, state = attended(x[:, :, here], group[:, :, here], state, WINDOW, span)
        pieces.append(y)
        at += part
    same(torch.cat(pieces, 2), wanted)
    for name, tensor in end.tensors().items():
        assert torch.equal(state.tensors()[name], tensor), name


class Stream(Recent):
    """A state that tells how many steps each row has seen."""

    @property
    def position(self):
        return self.count[:, 0].sum(1)


def test_rows_at_different_places_among_padding_equal_one_pass():
    x, group = noise(ROWS, STREAMS, STEPS, SIZE), drawn()
    both = torch.cat([x, group[..., None].double()], -1).transpose(1, 2).flatten(2)

    def run(piece, state, span):
        parts = piece.unflatten(2, (STREAMS, SIZE + 1)).transpose(1, 2)
        y, after = attended(
            parts[..., :SIZE].contiguous(), parts[..., SIZE].long(), state, WINDOW, span
        )
        y = torch.nn.functional.pad(y, (0, 1))
        return y.transpose(1, 2).flatten(2), Stream(after.count, after.kept)

    start = empty()
    state, done, pieces = Stream(start.count, start.kept), [0] * ROWS, [[] for _ in range(ROWS)]
    draw = torch.Generator().manual_seed(0)
    while min(done) < STEPS:
        valid = torch.rand(ROWS, 7, generator=draw) < 0.6
        given = torch.zeros(ROWS, 7, both.shape[2], dtype=torch.float64)
        for row in range(ROWS):
            for column in valid[row].nonzero().flatten().tolist():
                if done[row] == STEPS:
                    valid[row, column] = False
                    continue
                given[row, column] = both[row, done[row]]
                done[row] += 1
        y, state = in_turn(run, given, state, valid, None)
        for row in range(ROWS):
            pieces[row].append(y[row, valid[row]])
    got = torch.stack([torch.cat(piece) for piece in pieces])
    same(got.unflatten(2, (STREAMS, SIZE + 1))[..., :SIZE].transpose(1, 2), whole(x, group)[0])
