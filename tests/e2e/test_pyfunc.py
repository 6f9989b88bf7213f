"""MLflow alone predicts with what was logged: the process imports nothing of ours first."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from kt_forecast import Forecaster, KnowledgeTracer
from kt_forecast.data.simulate import Simulation, simulate, write
from kt_forecast.tracking import Store, Tracker
from kt_forecast.tracking.tracker import TRACING

SMALL = {"width": 16, "heads": 2}
TASK = {"patch": 4, "windows_per_epoch": 64}
PREDICT = """
import json, logging, sys
import mlflow, pandas
logging.getLogger("mlflow").setLevel(logging.ERROR)
mlflow.set_tracking_uri(sys.argv[1])
assert not [name for name in sys.modules if name.startswith("kt_forecast")]
told = {}
for name, (uri, path, dates) in json.loads(sys.argv[2]).items():
    table = pandas.read_csv(path, parse_dates=dates)
    told[name] = mlflow.pyfunc.load_model(uri).predict(table).to_dict("list")
print(json.dumps(told, default=str))
"""


def models(answers, series):
    tracing = {"identity": 0, "neighbours": 0}
    loop = {"training": {"epochs": 1}}
    of_series = {"horizon": 4, "context": 16, "levels": ()}
    tracers = {
        "tracer": KnowledgeTracer("gpt", settings=SMALL, tracing=tracing, **loop),
        "baseline of students": KnowledgeTracer("logistic"),
    }
    gpt = {"settings": SMALL, "forecasting": TASK, **loop, **of_series}
    forecasters = {
        "forecaster": Forecaster("gpt", **gpt),
        "ensemble": Forecaster("gpt", members=[{"system": "ridge"}], **gpt),
        "baseline of series": Forecaster("ridge", **of_series),
    }
    for tracer in tracers.values():
        tracer.fit(answers)
    for forecaster in forecasters.values():
        forecaster.fit(pd.read_csv(series, parse_dates=["ds"]))
    return tracers, forecasters


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logged")
    answers, series = folder / "answers.csv.gz", folder / "series.csv"
    write(simulate(Simulation(students=40, questions=15, concepts=4)), answers)
    random = np.random.default_rng(0)
    stamps = pd.date_range("2024-01-01", periods=80, freq="h")
    y = np.sin(np.arange(80) / 3) + random.normal(size=80) / 5
    pd.DataFrame({"unique_id": "a", "ds": stamps, "y": y}).to_csv(series, index=False)
    tracers, forecasters = models(answers, series)
    asked, expected = {}, {}
    root = folder / "mlruns"
    with Tracker("study", "all", root=root) as run:
        for name, model in (tracers | forecasters).items():
            model.save(folder / name)
            traces = name in tracers
            path, dates = (answers, []) if traces else (series, ["ds"])
            uri = run.model(folder / name, TRACING if traces else "forecasting")
            table = pd.read_csv(path, parse_dates=dates)
            found = model.predict_proba(table) if traces else model.predict(table)
            asked[name] = (uri, str(path), dates)
            expected[name] = found["p_correct" if traces else model.system].to_numpy()
    return Store(root).uri, asked, expected, folder


def test_mlflow_alone_predicts_with_each_kind_of_model(logged, tmp_path):
    uri, asked, expected, _ = logged
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREDICT, uri, json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.keys() == expected.keys()
    for name, own in expected.items():
        found = told[name].get("p_correct") or told[name].get("gpt") or told[name]["ridge"]
        np.testing.assert_allclose(found, own, rtol=0, atol=1e-6, err_msg=name)
