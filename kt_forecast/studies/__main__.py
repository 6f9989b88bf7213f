"""Run a study where only torch and little else is installed; see ``--help``."""

import argparse
import sys
from pathlib import Path

from kt_forecast.errors import InputError
from kt_forecast.studies import STUDIES, run_study


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kt_forecast.studies", allow_abbrev=False)
    parser.add_argument("name", choices=STUDIES)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="A=B")
    parser.add_argument("--full", action="store_true", help="the sizes that a GPU is asked for")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("mlruns") / "studies")
    asked = parser.parse_args()
    try:
        record = run_study(
            asked.name,
            asked.sets,
            full=asked.full,
            device=asked.device,
            out=asked.out,
            say=_said,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command line's own words
        return 2
    for sentence in record.answers:
        _said(sentence)
    return 0


def _said(sentence: str) -> None:
    print(sentence, flush=True)  # noqa: T201 - a command line's own words


if __name__ == "__main__":
    sys.exit(main())
