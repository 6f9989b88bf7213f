from collections.abc import Callable

import pytest
import torch


@pytest.fixture
def noise() -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
