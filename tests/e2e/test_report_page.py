"""The report in a real browser: headless Chromium opens it, without network."""

import dataclasses
import html
import re

import numpy as np
import pytest
from matplotlib.image import imread

from kt_forecast.report import Verdict, write
from tests.browser import browse, needs_browser
from tests.sample_forecast import a_fan, a_forecast
from tests.sample_record import HOSTILE, a_record

PHONE_PIXELS = 360
DESKTOP_PIXELS = 1200

pytestmark = needs_browser


def dom(tmp_path, page):
    return browse(tmp_path, page, "--dump-dom")


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "report.html"
    write(a_record(), path)
    return path


@pytest.fixture(params=[a_record, a_forecast], ids=["tracing", "forecasting"])
def either_page(tmp_path, request):
    path = tmp_path / "report.html"
    write(request.param(), path)
    return path


def test_the_browser_shows_every_section_and_complains_about_nothing(tmp_path, page):
    text, console = dom(tmp_path, page)
    assert console == []
    for section in ("scores", "trust", "mastery", "learning", "audit", "data", "model", "again"):
        assert f'<section id="{section}"' in text
    for target in re.findall(r'href="#([\w-]+)"', text):
        assert f'id="{target}"' in text
    assert text.count("<svg") == 8
    assert "best baseline, logistic, reaches 0.750" in text
    assert "UNPROVEN" in text


def test_the_browser_shows_every_section_of_a_forecasting_run(tmp_path):
    path = tmp_path / "forecast.html"
    write(a_forecast(), path)
    text, console = dom(tmp_path, path)
    assert console == []
    for section in ("scores", "ahead", "series", "learning", "audit", "data", "model", "again"):
        assert f'<section id="{section}"' in text
        assert f'href="#{section}"' in text
    assert text.count("<svg") == 13
    assert "the best baseline, ridge, reaches 0.3900" in text
    assert "PROVED" in text


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path, either_page):
    text, console = dom(tmp_path, either_page)
    assert console == []
    assert not re.search(r"<(script|link|iframe|object|embed)\b", text)
    assert not re.search(r"""(src|srcset|xlink:href)\s*=\s*["']?https?:""", text)
    assert not re.search(r"url\(\s*['\"]?https?:|@import", text)


def test_what_a_name_says_is_not_executed(tmp_path):
    path = tmp_path / "hostile.html"
    mastery = dataclasses.replace(a_record().mastery, student=HOSTILE, concepts=(HOSTILE, "_x"))
    write(a_record(name=HOSTILE, rival=HOSTILE[::-1], title=HOSTILE, mastery=mastery), path)
    text, console = dom(tmp_path, path)
    assert console == []
    title = re.search(r"<title>(.*?)</title>", text)[1]
    assert title != "owned"
    assert "<img" not in text
    assert html.escape("<script>document.title", quote=False) in text


def test_what_a_series_is_called_is_not_executed(tmp_path):
    path = tmp_path / "hostile.html"
    fan = a_fan(series=HOSTILE, rank=HOSTILE, window=HOSTILE)
    write(a_forecast(name=HOSTILE, rivals={HOSTILE[::-1]: 0.1}, title=HOSTILE, fans=(fan,)), path)
    text, console = dom(tmp_path, path)
    assert console == []
    assert re.search(r"<title>(.*?)</title>", text)[1] != "owned"
    assert "<img" not in text


def test_a_leak_stands_in_the_title_and_at_the_top(tmp_path):
    path = tmp_path / "leak.html"
    write(a_record(verdict=Verdict(verdict="leak", findings=("seen",))), path)
    text, _ = dom(tmp_path, path)
    assert "<title>LEAKS: A run</title>" in text
    assert text.index("<strong>LEAKS</strong>") < text.index("<section")


@pytest.mark.parametrize("width", [PHONE_PIXELS, DESKTOP_PIXELS])
def test_nothing_hangs_over_the_edge(tmp_path, either_page, width):
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"""<!doctype html><title>unmeasured</title>
        <iframe id="f" style="width:{width}px;height:900px;border:0"
          srcdoc="{html.escape(either_page.read_text("utf-8"))}"></iframe>
        <script>document.getElementById("f").onload = (event) => {{
          const root = event.target.contentDocument.documentElement;
          document.title = root.scrollWidth + " of " + root.clientWidth; }}</script>""",
        "utf-8",
    )
    text, _ = dom(tmp_path, frame)
    assert re.search(r"<title>(.*?)</title>", text)[1] == f"{width} of {width}"


@pytest.mark.parametrize(
    ("flags", "light"),
    [((), True), (("--blink-settings=preferredColorScheme=0",), False)],
    ids=["light", "dark"],
)
def test_the_screenshot_is_drawn_in_the_readers_colours(tmp_path, either_page, flags, light):
    picture = tmp_path / "page.png"
    size = f"--window-size={DESKTOP_PIXELS},1600"
    browse(tmp_path, either_page, f"--screenshot={picture}", size, *flags)
    brightness = imread(picture)[..., :3].mean(axis=-1)
    assert brightness.shape[1] == DESKTOP_PIXELS
    assert (np.median(brightness) > 0.9) if light else (np.median(brightness) < 0.2)
    assert np.abs(brightness - np.median(brightness)).max() > 0.5, "the page is blank"
