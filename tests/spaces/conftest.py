"""A running Composer Space and a headless Chromium for it; tests skip, and say so, where a program is missing."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "spaces" / "composer"
SHOTS = ROOT / "build" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def composer_url(tmp_path_factory):
    """Address of the Space, started as a visitor of the repository starts it."""
    pytest.importorskip("gradio", reason="the Spaces need gradio: pip install 'partimento[space]'")
    if not (SPACE / "app.py").is_file():
        pytest.skip("runs outside the checkout: spaces/ is not there")
    port, folder = free_port(), tmp_path_factory.mktemp("space")
    environment = os.environ | {
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "partimento.pipelines.cli", "space", "composer", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(1200):
            if process.poll() is not None:
                pytest.fail(f"the Space did not start:\n{(folder / 'log').read_text()}")
            try:
                urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"the Space did not answer within ten minutes:\n{(folder / 'log').read_text()}")
        yield url
        assert "Traceback" not in (folder / "log").read_text()
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="browser tests need playwright: pip install playwright"
    )
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("browser tests need Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visitor:
    """A page in a context of its own that notes every foreign request, page error and console error."""

    def __init__(self, browser, url: str, width: int = 1280, scheme: str = "light"):
        self.url, self.faults = url, []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(180_000)
        self.page.on("request", self._request)
        self.page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.page.on("console", self._console)
        self.page.goto(url)
        self.page.get_by_role("button", name="Generate", exact=True).wait_for()

    def _request(self, request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"request to {request.url}")

    def _console(self, message) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text} {message.location}")

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    def drawn(self) -> list[int]:
        """Notes drawn on each roll."""
        return [
            int(n) for n in self.page.eval_on_selector_all("#roll canvas", "cs => cs.map(c => c.dataset.notes || 0)")
        ]

    def status(self) -> str:
        return self.page.locator("#status").inner_text()

    def set_number(self, slot: str, value) -> None:
        field = self.page.locator(f"#{slot} input[type=number]").first
        field.fill(str(value))
        field.press("Enter")

    def wait_done(self, seconds: int = 400) -> None:
        self.page.wait_for_function(
            "/^(Done|Stopped)/.test(document.querySelector('#status').innerText)", timeout=seconds * 1000
        )

    def midi(self) -> bytes:
        """The .mid download."""
        with self.page.expect_download() as download:
            self.page.get_by_role("link", name="Download .mid").click()
        return Path(download.value.path()).read_bytes()


@pytest.fixture
def visit(browser, composer_url):
    """visit(width, scheme) opens the Space; at the end no visitor may have met a fault."""
    visitors = []

    def open_page(width: int = 1280, scheme: str = "light") -> Visitor:
        visitors.append(Visitor(browser, composer_url, width, scheme))
        return visitors[-1]

    yield open_page
    faults = [fault for visitor in visitors for fault in visitor.faults]
    for visitor in visitors:
        visitor.context.close()
    assert not faults, "\n".join(faults)
