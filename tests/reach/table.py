"""Prints verdicts on public models: ``python tests/reach/table.py [--json|--markdown] [NAME...]``.

Libraries that are not installed are left out; environment variables name checkouts. Names choose
libraries or parts of the names of models.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from reach.running import LIMIT, Row, present, row  # noqa: E402 - the path comes first

HEAD = """# Models of others under the auditor

Public models with tiny settings and random weights, audited as their users call them: our adapters
(in this folder) hold none of their code. *Honest* and *leak* are what is expected, with its source;
a verdict that disagrees is set in bold. The *survey of leaks* is this project's design note on
published ones; where the audit itself found a leak that was not looked for, the source says so.
A proof is of these adapters, settings and versions, at the length they are run at.

`python tests/reach/table.py --markdown > tests/reach/README.md` makes this page from what is
installed; `KT_FORECAST_TSLIB` and `KT_FORECAST_PYKT` name checkouts of Time-Series-Library and
pyKT. `pytest tests/reach -m slow` holds every verdict to its expectation.
"""


def rows(names: list[str], limit: float) -> Iterator[Row]:
    """Yield a row for each case that was asked for, as it comes out."""
    for module, version in present():
        whole = not names or module.__name__.split(".")[-1] in names
        for case in module.CASES:
            if whole or any(name.lower() in case.name.lower() for name in names):
                yield row(module, version, case, limit)


def read(path: Path) -> Iterator[Row]:
    """Yield rows of an earlier run; of a model that was run again, the last."""
    kept = [Row(**json.loads(line)) for line in path.read_text().splitlines()]
    yield from {(r.library, r.model): r for r in kept}.values()


def markdown(found: list[Row]) -> str:
    """Return the page."""
    parts = [HEAD, counted(found)]
    for library in dict.fromkeys((r.library, r.version) for r in found):
        parts += [
            f"\n## {library[0]} {library[1]}\n",
            "| model | contract | modes | expected, by | verdict | finding, conditions or reasons "
            "| s | unmodified |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for r in found:
            if (r.library, r.version) != library:
                continue
            verdict = r.verdict if r.agrees else f"**{r.verdict}**"
            told = r.told.replace("|", "\\|").replace("\n", " ")
            cells = (r.model, r.contract, r.modes, f"{r.expected}: {r.source}", verdict, told)
            said = f"no: {r.changed}" if r.changed else "yes"
            told = f"{told} ({r.open})" if r.open and r.verdict == "unproven" else told
            parts.append(f"| {' | '.join(cells)} | {r.seconds:.1f} | {said} |")
    return "\n".join(parts) + "\n"


def counted(found: list[Row]) -> str:
    """Return how many models run, and agree with what is expected."""
    ran = [r for r in found if r.verdict != "not run"]
    as_is = [r for r in ran if not r.changed]
    decided = [r for r in ran if r.verdict != "unproven"]
    agree = [r for r in found if r.agrees]
    leaks = [r for r in found if r.expected == "leak"]
    shown = [r for r in leaks if r.verdict == "leak"]
    accused = [r for r in found if r.expected == "honest" and r.verdict == "leak"]
    return (
        f"Of {len(found)} models {len(ran)} are audited, {len(as_is)} of them unmodified; "
        f"{len(decided)} are proved, conditional or shown to leak, and {len(agree)} come out as "
        f"expected. Leaks found: {len(shown)} of {len(leaks)}; honest models accused: "
        f"{len(accused)}."
    )


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="libraries, or parts of the names of models")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--markdown", action="store_true", help="the page of this folder")
    parser.add_argument("--read", type=Path, help="take the rows of an earlier --json from a file")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds a model may take")
    asked = parser.parse_args()
    found = []
    for r in read(asked.read) if asked.read else rows(asked.names, asked.limit):
        found.append(r)
        if asked.json:
            print(json.dumps(asdict(r)), flush=True)
        elif not asked.markdown:
            mark = " " if r.agrees else "!"
            print(f"{mark} {r.library:20} {r.model:34} {r.expected:7} {r.verdict:12} "
                  f"{r.seconds:6.1f} s  {r.told[:300]}", flush=True)  # fmt: skip
    if asked.markdown:
        print(markdown(found))
    elif not asked.json:
        print(counted(found))


if __name__ == "__main__":
    main()
