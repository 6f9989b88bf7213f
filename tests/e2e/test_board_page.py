"""A page of many systems on several data sets, in a real browser without network."""

import pytest

from kt_forecast.experiment.board import Board
from kt_forecast.experiment.board_rows import Difference, Failure, Group, Interval, Row
from tests.browser import asked, needs_browser

SYSTEMS = [f"system_of_a_long_name_{i:02}" for i in range(33)]
WHY = "the gradient is not finite in epoch 5, batch 65, whose rows hold the training steps 1-2"

pytestmark = needs_browser


def row(data, system, value, number):
    return Row(
        system=f"board_{data}-{system}",
        what=system,
        score=Interval(value, value - 0.004, value + 0.005),
        parameters=278_339,
        seconds=262.9,
        latency=12.3,
        memory="2451 MiB",
        causality="step by change",
        verdict="conditional",
        marks=("LEAKS",) if number == 7 else (),
        gap=None if number == 0 else Difference(-0.01, -0.02, -0.002, 0.003),
        label=system,
        early="4 of 9 epochs" if number == 5 else "",
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    groups = []
    for data in ("one", "two", "three", "four", "five"):
        rows = tuple(row(data, s, 0.78 - 0.002 * i, i) for i, s in enumerate(SYSTEMS))
        title = f"{data}, full: 57,012 answers of test students"
        groups.append(Group(title, "auc", False, rows[0].system, rows, data))
    failed = tuple(Failure(f"lost{i}", f"board_one-lost{i}", WHY) for i in range(17))
    path = tmp_path_factory.mktemp("page") / "board.html"
    Board(tuple(groups), failed, ("24 trainings ran at once",)).write(path)
    return path


SEEN = """page => {
  const cut = [...page.querySelectorAll('svg')].flatMap(svg => [...svg.querySelectorAll('text')]
    .filter(text => text.getBBox().x < 0 || text.getBBox().x + text.getBBox().width >
      svg.width.baseVal.value));
  const fits = [...page.querySelectorAll('figure')].filter(f => f.scrollWidth <= f.clientWidth);
  return [page.querySelectorAll('tbody tr').length,
    [...page.querySelectorAll('nav a')].filter(
      a => page.querySelector(a.getAttribute('href'))).length,
    cut.length, fits.length,
    page.querySelector('table').getBoundingClientRect().top < 500].join(' ') }"""


def test_a_board_of_many_systems_fits_and_begins_with_all_data_sets(tmp_path, page):
    rows, links, figures = 33 + 5 * 33 + 17, 6, 2 * 5 + 2
    assert asked(tmp_path, page, 1400, SEEN) == f"{rows} {links} 0 {figures} true"


@pytest.mark.slow
def test_tables_scroll_in_their_own_frame_on_a_phone(tmp_path, page):
    inside = "page => page.documentElement.scrollWidth <= page.documentElement.clientWidth"
    assert asked(tmp_path, page, 360, inside) == "true"
