"""The page in a real browser: headless Chromium, driven over a real connection."""

import json
import urllib.request

import numpy as np
import pytest

from tests.browser import CHROMIUM
from tests.serving.clients import Served
from tests.serving.conftest import OVERRIDE

HOSTILE = "<img src=x onerror=alert(1)>"
KEY = "a key of the test"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as found:
        chromium = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def _post(served: Served, path: str, body: dict, key: str = "") -> None:
    # Playwright has an event loop of its own in this thread.
    request = urllib.request.Request(
        f"http://127.0.0.1:{served.port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=600) as reply:  # noqa: S310 - loopback
        assert reply.status == 200


def _open(browser, served: Served, width: int = 1200):
    page = browser.new_page(viewport={"width": width, "height": 1000})
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(f"http://127.0.0.1:{served.port}/")
    return page, complaints


def test_a_student_is_chosen_and_seen(tracers, tmp_path, browser, shots):
    served = Served(
        str(tracers()), f"sqlite:///{tmp_path / 'log.db'}", tmp_path, ("--override", OVERRIDE)
    ).start()
    try:
        answers = [
            {"question": str(i % 60), "concepts": [str(i % 7)], "response": int(i % 3 > 0)}
            for i in range(30)
        ]
        for student in ("ada", HOSTILE):
            _post(served, "/v1/interactions", {"student": student, "answers": answers})
        page, complaints = _open(browser, served)
        page.locator("#names option").nth(1).wait_for(state="attached")
        page.fill("#name", "ada")
        page.click("#choose button")
        page.wait_for_selector("#over-time svg")
        assert page.locator("#over-time polyline").count() == 6
        assert page.locator("#over-time circle").count() == 30
        assert page.locator("#now-rows tr").count() == 7
        assert page.locator("#change-rows tr").count() == 30
        assert page.text_content("#change-rows tr:first-child td:first-child") == "30"
        assert OVERRIDE in page.text_content("header")
        page.screenshot(path=shots / "student.png", full_page=True)
        page.fill("#name", HOSTILE)
        page.click("#choose button")
        page.locator("#said", has_text=f"{HOSTILE}: 30 answers").wait_for()
        page.fill("#name", "nobody yet")
        page.click("#choose button")
        page.locator("#said", has_text="not answered").wait_for()
        assert complaints == []
        phone, complaints = _open(browser, served, width=360)
        phone.fill("#name", "ada")
        phone.click("#choose button")
        phone.wait_for_selector("#over-time svg")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 360
        phone.screenshot(path=shots / "student-phone.png", full_page=True)
        assert complaints == []
    finally:
        served.kill()


def test_a_series_is_chosen_and_seen_with_a_key(forecaster, tmp_path, browser, shots):
    keys = tmp_path / "keys"
    keys.write_text(KEY, "utf-8")
    model, folder = forecaster
    table = model.table_
    options = ("--override", OVERRIDE, "--api-key-file", str(keys))
    served = Served(str(folder), f"sqlite:///{tmp_path / 'log.db'}", tmp_path, options).start()
    try:
        page, complaints = _open(browser, served)
        page.wait_for_selector("#key-form:visible")
        assert "API key" in page.text_content("#said")
        rows = _rows(table)
        for low in range(0, len(rows), 1000):
            body = {"series": table.ids[0], "observations": rows[low : low + 1000]}
            _post(served, "/v1/observations", body, KEY)
        page.fill("#key", KEY)
        page.click("#key-form button")
        page.locator("#names option").nth(0).wait_for(state="attached")
        page.fill("#name", table.ids[0])
        page.click("#choose button")
        page.wait_for_selector("#ahead svg")
        assert page.locator("#ahead polygon.band").count() == len(model.fitted_.conformal.levels)
        assert page.locator("#step-rows tr").count() == model.horizon
        page.screenshot(path=shots / "series.png", full_page=True)
        assert [one for one in complaints if "401" not in one] == []
    finally:
        served.kill()


def _rows(table) -> list[dict]:
    """Return the values of the first series of a table as the API takes them."""
    from kt_forecast.data.series.frequency import stamps_of

    stop = int(table.start[1])
    stamps = stamps_of(table, 0, np.arange(stop))
    names = (*table.past_names, *table.future_names)
    return [
        {
            "ds": stamps[i].isoformat(),
            "y": float(table.y[i]),
            "covariates": {
                name: float(value)
                for name, value in zip(names, (*table.past[i], *table.future[i]), strict=True)
            },
        }
        for i in range(stop)
    ]


@pytest.fixture
def shots(tmp_path):
    """Return the folder of the pictures that were taken."""
    return tmp_path
