"""A further process of a study; ``python -m kt_forecast.experiment.tuning_worker SPEC``."""

import sys
from pathlib import Path

from kt_forecast.errors import InputError
from kt_forecast.experiment.tuning_workers import work_on

BAD_INPUT = 2


def main() -> None:
    """Work until the studies' budget is used up."""
    try:
        work_on(Path(sys.argv[1]))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
