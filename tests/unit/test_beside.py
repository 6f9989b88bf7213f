"""A baseline that several processes want at once is fitted by one of them."""

import time
from concurrent.futures import ThreadPoolExecutor

from kt_forecast.experiment.beside import from_cache
from kt_forecast.tracer import plan


class Mean:
    """What was fitted."""

    def save(self, folder):
        folder.mkdir()


def test_what_several_want_at_once_is_fitted_once(tmp_path):
    chosen, fitted, said = plan("item_mean"), [], []

    def fit():
        fitted.append(1)
        time.sleep(0.2)
        return Mean()

    def want(_):
        return from_cache(
            chosen, fit, lambda _: Mean(), rows="r", cache=tmp_path / "cache", say=said.append
        )

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(want, range(4)))) == 4
    assert len(fitted) == 1
    assert sum("from the cache" in line for line in said) == 3
