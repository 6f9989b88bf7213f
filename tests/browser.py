"""Opens a page in headless Chromium, without network, for tests that look at pages."""

import html
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def browse(tmp_path, page, *flags):
    """Open a page and return what the browser printed and what it complained about."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={tmp_path / 'profile'}",
        *flags,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console


def asked(tmp_path, page, width, script):
    """Return what a script says of a page that is so many pixels wide, as the frame's title."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"""<!doctype html><title>unmeasured</title>
        <iframe id="f" style="width:{width}px;height:900px;border:0"
          srcdoc="{html.escape(page.read_text("utf-8"))}"></iframe>
        <script>document.getElementById("f").onload = (event) => {{
          const page = event.target.contentDocument;
          document.title = ({script})(page); }}</script>""",
        "utf-8",
    )
    text, _ = browse(tmp_path, frame, "--dump-dom")
    return re.search(r"<title>(.*?)</title>", text)[1]
