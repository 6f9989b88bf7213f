"""Systems that carry a summary of the past, or shorten it: what they cost, and single precision."""

import pytest
import torch
from reference.sparse_cases import drawn, largest_tensor, noise

from kt_forecast import zoo
from kt_forecast.audit.cost import growth

WIDTH, CHUNK = 16, 64
LINEAR = {
    "linear_transformer": {},
    "performer": {"features": 12},
    "linformer": {"slots": 5, "places": 23},
    "set_transformer": {"points": 3, "layers": 1, "dropout": 0.0},
}
QUADRATIC = {"memory_compressed": {"window": 5, "factor": 2}, "synthesizer": {"layers": 1}}
ALL = LINEAR | QUADRATIC
EACH = pytest.mark.parametrize("name", ALL)


def made(name, **settings):
    found = zoo.load(name)
    small = {"width": WIDTH, "heads": 2, "layers": 2, "chunk": CHUNK} | ALL[name] | settings
    fields = found.config.model_fields
    return found.build(found.config(**{k: v for k, v in small.items() if k in fields}))


@EACH
def test_single_precision_streams_as_it_passes(name):
    module = drawn(made(name, chunk=16, **({"reach": 40} if name == "synthesizer" else {}))).float()
    x = noise(2, 110, WIDTH).float()
    state, pieces = module.init_state(2), []
    for piece in x.split([1, 1, 50, 3, 55], 1):
        y, state = module(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), module(x)[0], atol=1e-4, rtol=0.0)


@EACH
def test_nothing_that_a_pass_forms_grows_with_the_square(name):
    module = made(name, reach=1024)
    few, many = (
        largest_tensor(lambda n=n: module(torch.randn(1, n, WIDTH))[0].sum().backward())
        for n in (512, 1024)
    )
    assert many <= 2.1 * few


def costs(name, *lengths):
    return growth(made(name, reach=lengths[1]), WIDTH, streaming=True, lengths=lengths)


@pytest.mark.parametrize("name", LINEAR)
def test_costs_of_summaries_grow_with_the_steps(name):
    measured = costs(name, 1024, 2048)
    assert measured.training_flops == pytest.approx(1.0, abs=0.02)
    assert measured.training_bytes == pytest.approx(1.0, abs=0.05)
    assert (measured.step_flops, measured.state_bytes) == (0.0, 0.0)


@pytest.mark.slow
@EACH
def test_costs_grow_as_promised_from_a_thousand_to_sixty_four_thousand_steps(name):
    """A step's cost up to fewer, for it is counted behind as many real ones."""
    module, promised = made(name, reach=65536), zoo.load(name).promises.cost
    longest = (1024, 65536)
    passes = growth(module, WIDTH, streaming=False, lengths=longest, values=False)
    steps = costs(name, 1024, 8192)
    for measured, what in (
        (passes, ("training_flops", "training_bytes")),
        (steps, ("step_flops", "state_bytes")),
    ):
        for of in what:
            assert getattr(measured, of) == pytest.approx(getattr(promised, of), abs=0.2), of
