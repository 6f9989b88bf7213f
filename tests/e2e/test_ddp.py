"""Two processes under torchrun train as one process does on the same batches."""

import json
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.e2e import tiny_forecast, tiny_training


def launch(folder, *options, dies=False, script=tiny_training):
    folder.mkdir(exist_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *torchrun, script.__file__, str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode != 0) == dies, done.stderr
    return [] if dies else [told(folder, rank) for rank in range(2)]


def told(folder, rank):
    return json.loads((folder / f"rank{rank}.json").read_text())


TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=TWO_GPUS)])
def test_two_processes_equal_one(tmp_path, device):
    (tmp_path / "one").mkdir()
    options = ["--ema", "0.9", "--device", device]
    tiny_training.main([str(tmp_path / "one"), *options])
    alone = told(tmp_path / "one", 0)
    together = launch(tmp_path / "two", *options)
    assert [r["world"] for r in together] == [2, 2]
    for rank, found in enumerate(together):
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert found["metrics"] == pytest.approx(alone["metrics"], rel=1e-5)
        ours = load_file(tmp_path / "two" / f"rank{rank}.safetensors")
        for name, expected in load_file(tmp_path / "one" / "rank0.safetensors").items():
            torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-5)
    assert [p.name for p in (tmp_path / "two" / "place").iterdir()] == ["checkpoint.safetensors"]


def test_two_processes_forecast_as_one_does(tmp_path):
    (tmp_path / "one").mkdir()
    tiny_forecast.main(tmp_path / "one")
    alone = told(tmp_path / "one", 0)
    together = launch(tmp_path / "two", script=tiny_forecast)
    assert [found["world"] for found in together] == [2, 2]
    for found, form in product(together, ("windows", "along")):
        ours, expected = found[form], alone[form]
        for name in ("losses", "metrics"):
            assert ours[name] == pytest.approx(expected[name], rel=1e-5), form
        for name in ("point", "quantiles"):
            np.testing.assert_allclose(ours[name], expected[name], rtol=0, atol=1e-4, err_msg=form)


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_to_the_same_bits(tmp_path):
    whole = launch(tmp_path / "whole", "--dropout", "0.3")
    launch(tmp_path / "cut", "--dropout", "0.3", "--end", "2.3", dies=True)
    again = launch(tmp_path / "cut", "--dropout", "0.3")
    assert [r["losses"] for r in again] == [r["losses"] for r in whole]
    files = [tmp_path / name / "rank1.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
