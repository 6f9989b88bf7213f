"""The page of an audit, in a real browser where there is one."""

import base64
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from kt_forecast.audit import Counterexample, audit, audit_pipeline, causal
from kt_forecast.audit.picture import WINDOW
from kt_forecast.audit.pipeline import rows
from tests.browser import asked, browse, needs_browser

PHONE, DESKTOP = 360, 1200
STEPS = 41
QUICK = {"modes": ("evaluation",), "moments": 4, "skip": ("compiled",)}
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


class Peek(nn.Module):
    """Adds the next step, or the step itself, after a stack of honest layers."""

    def __init__(self, ahead):
        super().__init__()
        self.before = nn.Sequential(*(nn.Linear(3, 3) for _ in range(5)))
        self.mixing = Mixing(ahead)
        self.after = nn.Linear(3, 2)

    def forward(self, x):
        return self.after(self.mixing(self.before(x)))


class Mixing(nn.Module):
    def __init__(self, ahead):
        super().__init__()
        self.ahead = ahead

    def forward(self, x):
        return x + nn.functional.pad(x, (0, 0, 0, self.ahead))[:, self.ahead :]


class Silent(nn.Module):
    """Reads the last step through a unit that no replacement wakes."""

    def forward(self, x):
        return x + torch.relu(x[:, -1:].tanh() - 2)


def features(table):
    found = table[["student", "time"]].copy()
    found["smooth"] = table.groupby("student").value.transform(
        lambda x: x.rolling(3, center=True, min_periods=1).mean()
    )
    return found


def pipeline_report():
    table = pd.DataFrame(
        {
            "student": [1] * 12 + [2] * 12,
            "time": [*range(12)] * 2,
            "value": torch.randn(24, generator=torch.Generator().manual_seed(0)).double().numpy(),
        }
    )
    return audit_pipeline(features, table, rows(time="time", entity="student"))


X = torch.randn(2, STEPS, 3, generator=torch.Generator().manual_seed(0))
REPORTS = {
    "leak": lambda: audit(Peek(2), X, causal(), **QUICK),
    "proved": lambda: audit(Peek(0), X, causal(), **QUICK),
    "unproven": lambda: audit(Silent(), X, causal(), **QUICK),
    "pipeline": pipeline_report,
}


@pytest.fixture(scope="module")
def reports():
    return {name: make() for name, make in REPORTS.items()}


@pytest.fixture(params=REPORTS)
def page(request, reports, tmp_path):
    path = tmp_path / "audit.html"
    path.write_text(reports[request.param].to_html(), "utf-8")
    return path


def test_the_band_is_enlarged_moment_by_moment(reports):
    report = reports["leak"]
    assert len(report.zoom.known) == WINDOW
    assert report.zoom.leaks
    beyond = {
        known - report.zoom.needed[y]
        for y, row in enumerate(report.zoom.measured)
        for known, value in zip(report.zoom.known, row, strict=True)
        if value > 0
    } - {0}
    assert beyond == {2}
    assert reports["proved"].zoom is None
    assert not reports["proved"].picture.leaks


def differing(course):
    lines = zip(course.moments, course.before, course.after, strict=True)
    return [moment for moment, before, after in lines if before != after]


def test_both_runs_of_a_counterexample_are_told_along_time(reports):
    finding = reports["leak"].findings[0]
    given, moved = finding.courses
    cut = finding.counterexample.moment
    assert (given.name, given.input, moved.input) == ("input", True, False)
    changed = [
        m for m, a, b in zip(given.moments, given.before, given.after, strict=True) if a != b
    ]
    assert changed == list(range(cut + 1, STEPS))
    early = [m for m, a, b in zip(moved.moments, moved.before, moved.after, strict=True) if a != b]
    assert min(early) <= cut
    assert 0 <= cut < STEPS - 1


def test_the_way_runs_through_the_tree_and_the_entry_is_marked(reports):
    text = reports["leak"].to_html()
    start = text.index('<div class="tree">')
    tree = text[start : text.index("</section>", start)]
    opened = re.findall(r'<details open><summary><span class="way">(\w+)</span>', tree)
    assert opened == ["model", "mixing"]
    assert tree.count("enters here") == 2
    assert "enters here" in tree[: tree.index("after")]


def test_the_enclosed_counterexample_replays(reports, tmp_path):
    text = reports["leak"].to_html()
    stored = re.search(r'href="data:application/octet-stream;base64,([^"]+)"', text)[1]
    path = tmp_path / "leak-1.npz"
    path.write_bytes(base64.b64decode(stored))
    assert "leak-1.npz" in text
    model = Peek(2)
    model.load_state_dict({k: torch.ones_like(v) for k, v in model.state_dict().items()})
    assert Counterexample.load(Path(path)).replay(model) > 0


def test_what_was_proved_stands_apart_from_what_was_sampled(reports):
    def column(name, title):
        text = reports[name].to_html()
        start = text.index(f"<h3>{title}</h3>")
        return text[start : text.index("</div>", start)]

    assert "tracking: evaluation holds" in column("proved", "Proved")
    assert "replacements" in column("proved", "Sampled")
    assert "tracking: evaluation does not hold" in column("unproven", "Tried, not proved")
    assert "proves none" in column("pipeline", "Proved")
    assert "truncate" in column("pipeline", "Sampled")


def test_names_are_shown_and_not_executed():
    report = audit(Peek(1), {HOSTILE: X}, causal(), call=lambda b: Peek(1)(b[HOSTILE]), **QUICK)
    text = report.to_html()
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text


@needs_browser
def test_the_browser_has_no_complaint_and_asks_for_nothing(tmp_path, page):
    text, console = browse(tmp_path, page, "--dump-dom")
    assert console == []
    assert not re.search(r"<(script|link|iframe|object|embed)\b", text)
    assert not re.search(r"""(src|href)\s*=\s*["']?https?:""", text)
    for target in re.findall(r'href="#([\w-]+)"', text):
        assert f'id="{target}"' in text


@needs_browser
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_nothing_hangs_over_the_edge(tmp_path, page, width):
    script = "(p) => p.documentElement.scrollWidth + ' of ' + p.documentElement.clientWidth"
    assert asked(tmp_path, page, width, script) == f"{width} of {width}"


REACHED = """(page) => {
  const of = [...page.querySelectorAll('a[href], summary, .scroll')];
  const visible = of.filter((x) => x.checkVisibility());
  const reached = visible.filter((x) => { x.focus(); return page.activeElement === x; });
  return visible.length >= 4 && reached.length === visible.length; }"""


@needs_browser
def test_all_that_can_be_used_is_reached_by_keyboard(tmp_path, page):
    assert asked(tmp_path, page, DESKTOP, REACHED) == "true"


CONTRAST = """(page) => {
  const rgb = (x) => x.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (x) => { while (x) {
    const c = rgb(getComputedStyle(x).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
    x = x.parentElement; } return [255, 255, 255]; };
  let worst = 21;
  for (const x of page.querySelectorAll('p, li, td, th, dd, dt, h1, h2, a, summary, small')) {
    const [a, b] = [light(rgb(getComputedStyle(x).color)), light(ground(x))];
    worst = Math.min(worst, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)); }
  return worst >= 4.5; }"""


@needs_browser
def test_everything_can_be_read_on_its_ground(tmp_path, page):
    assert asked(tmp_path, page, DESKTOP, CONTRAST) == "true"
