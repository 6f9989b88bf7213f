"""One training of several; ``python -m kt_forecast.experiment.training_worker SPEC PARENT``."""

import os
import sys
import time
from pathlib import Path
from threading import Thread

from kt_forecast.errors import InputError
from kt_forecast.experiment.training_processes import work_on

BAD_INPUT = 2
WATCH_SECONDS = 1.0


def main() -> None:
    """Train; end where the process that asked for it has ended."""
    Thread(target=_watch, args=(int(sys.argv[2]),), daemon=True).start()
    try:
        work_on(Path(sys.argv[1]))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(BAD_INPUT)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
