"""A study without training: a score that is a formula; also a process that can be killed in it."""

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_forecast.config import Config, Range, tunable
from kt_forecast.errors import InputError
from kt_forecast.tuning import Budget, Outcome, Place, Problem, Search, search


class Toy(Config):
    """Settings of the formula."""

    x: float = tunable(0.9, Range(low=0.0, high=1.0), ge=0)
    n: int = tunable(4, (1, 2, 4, 8, 16), ge=1)
    steps: int = tunable(10, Range(low=5, high=20), ge=1)
    rate: float = tunable(1e-3, Range(low=1e-4, high=1e-1, log=True), gt=0)
    kind: str = tunable("a", ("a", "b"))
    fixed: int = 7


@dataclass
class Epoch:
    """What an epoch of the formula gives."""

    number: int
    metrics: dict[str, float]
    loss: float = 0.5
    seconds: float = 0.0
    steps_per_second: float = 1.0
    learning_rate: float = 1e-3


def score(settings: Toy, seed: int = 0) -> float:
    """Return the score that the last epoch reaches."""
    rate = 0.1 * (math.log10(settings.rate) + 2) ** 2
    return -((settings.x - 0.3) ** 2) - rate - 0.01 * abs(settings.n - 8) + 0.001 * seed


def problem(
    run: Callable[..., Outcome] | None = None, *, epochs: int = 9, rows: str = "rows"
) -> Problem:
    """Return the formula as a problem; settings ``n=16`` and ``kind=b`` make no sense together."""

    def check(sections: Any) -> None:
        found = Toy.parse(dict(sections["settings"]), "toy")
        if found.n == 16 and found.kind == "b":
            raise InputError("n 16 does not go with kind b")

    def formula(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:
        settings = Toy(**sections["settings"])
        value = score(settings, seed)
        for number in range(1, epochs + 1):
            tell(Epoch(number, {"auc": value - (epochs - number) * 0.01}))
        return Outcome(value, epochs, epochs, settings.n * 100, settings.n * 7.0)

    return Problem(
        system="toy",
        sections={"settings": Toy().model_dump()},
        configs={"settings": Toy},
        metric="auc",
        direction="max",
        epochs=epochs,
        seed=0,
        rows=rows,
        check=check,
        run=run or formula,
    )


def main() -> None:
    """Work on a study; in the trial of a given number say so and wait to be killed."""
    folder, storage, trials, hang = (
        Path(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        int(sys.argv[4]),
    )
    plain = problem()
    begun: list[int] = []

    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:
        begun.append(seed)
        (folder / f"{os.getpid()}-{time.monotonic_ns()}").write_text(str(sections["settings"]["x"]))
        if len(begun) == hang:
            tell(Epoch(1, {"auc": -5.0}))
            (folder / f"hangs-{os.getpid()}").touch()
            time.sleep(3600)
        time.sleep(0.02)
        return plain.run(sections, seed, tell)

    settings = Search(trials=trials, pruner="none", seeds=2, finalists=1)
    search(problem(run), settings, Place("toy", storage), Budget())


if __name__ == "__main__":
    main()
