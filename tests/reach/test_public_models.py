"""Models of others get the verdict that the literature, or a reading of their code, gives."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from reach.running import LIBRARIES, absent, row

CASES = [
    pytest.param(module, case, id=f"{name}: {case.name}")
    for name in LIBRARIES
    for module in [importlib.import_module(f"reach.{name}")]
    for case in module.CASES
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("module", "case"), CASES)
def test_a_public_model_gets_the_expected_verdict(module, case):
    why = absent(module)
    if why:
        pytest.skip(why)
    found = row(module, module.version(), case)
    assert found.verdict in case.verdicts, found


def test_names_of_models_are_unique_in_their_library():
    for name in LIBRARIES:
        names = [case.name for case in importlib.import_module(f"reach.{name}").CASES]
        assert len(set(names)) == len(names)


def test_the_table_runs_where_nothing_is_asked_for():
    found = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("table.py")), "no such model"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Of 0 models" in found.stdout
