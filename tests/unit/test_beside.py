"""Processes side by side: each recipe is trained by one, each baseline fitted by one."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kt_forecast.errors import InputError
from kt_forecast.experiment import Recipe
from kt_forecast.experiment.beside import from_cache
from kt_forecast.experiment.running import alone, at_work
from kt_forecast.tracer import plan


def test_a_recipe_is_trained_by_one_process_at_a_time(tmp_path):
    folder = tmp_path / "checkpoints" / "one"
    refused = pytest.raises(InputError, match="another process is training the same")
    with alone(folder), refused, alone(folder):
        pass
    with alone(folder):
        (folder / "checkpoint.safetensors").touch()
    with alone(folder):
        pass
    assert (folder / "checkpoint.safetensors").exists()
    with alone(tmp_path / "two"):
        pass
    assert not (tmp_path / "two").exists(), "an empty place is left behind"


def test_a_run_is_alone_while_it_trains(tmp_path):
    recipe = Recipe.parse({"data": {"source": "sample"}, "tracking": {"enabled": False}}, "test")

    def work(**changes):
        told = {"settings": dict, "data": {}, "runs": tmp_path, "say": str, "first": True}
        return at_work(recipe, {"plan": 1}, "rows", **(told | changes))

    with work() as place:
        assert place.tracker is None
        with pytest.raises(InputError, match="another process"), work():
            pass
        with work(first=False) as other:
            assert other.checkpoint.folder == place.checkpoint.folder
    assert not place.checkpoint.folder.exists()


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
