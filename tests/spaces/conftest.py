"""A running Composer Space and a headless Chromium for it; tests skip, and say so, where a program is missing."""

import os
import runpy
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_space(name: str, folder: Path, **environment: str):
    """(address, process) of a Space, started as a visitor of the repository starts it."""
    log_file = folder / "log"
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "gradio"), "OMP_NUM_THREADS": "1"} | environment
    for _ in range(4):
        url, process = start_space(name, environment, log_file)
        if process.poll() is None or "localhost is not accessible" not in log_file.read_text():
            break  # Gradio gives up where it does not reach itself within seconds, as on a very busy machine
    try:
        if process.poll() is not None:
            pytest.fail(f"the Space did not start:\n{log_file.read_text()}")
        yield url, process
        assert "Traceback" not in log_file.read_text(), log_file.read_text()
    finally:
        process.terminate()
        process.wait(timeout=30)


def start_space(name: str, environment: dict[str, str], log_file: Path) -> tuple[str, subprocess.Popen]:
    """A Space that has said that it is ready, or has ended."""
    port = free_port()
    with log_file.open("w") as log:
        command = [sys.executable, "-m", "partimento.pipelines.cli", "space", name, "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    for _ in range(1200):
        if process.poll() is not None or "To create a public link" in log_file.read_text():
            return f"http://127.0.0.1:{port}/", process
        time.sleep(0.5)
    process.terminate()
    pytest.fail(f"the Space was not ready within ten minutes:\n{log_file.read_text()}")


def need_space(name: str) -> None:
    """Skips where the Space or its libraries are not there."""
    pytest.importorskip("gradio", reason="the Spaces need gradio: pip install 'partimento[space]'")
    if not (ROOT / "spaces" / name / "app.py").is_file():
        pytest.skip("runs outside the checkout: spaces/ is not there")


@pytest.fixture
def serve_space(tmp_path):
    """serve_space(name, **environment) runs a Space for the length of a `with`: (address, process)."""

    def serve(name: str, **environment: str):
        need_space(name)
        return running_space(name, tmp_path, **environment)

    return serve


@pytest.fixture(scope="session")
def small_models(tmp_path_factory) -> dict[str, str]:
    """Environment that names an untrained LSTM and MusicVAE for the comparison."""
    from transformers import GenerationConfig

    from partimento.checkpoints import embedded_checkpoint
    from partimento.modeling import MusicVAEConfig, MusicVAEModel, RecurrentConfig, RecurrentForCausalLM
    from partimento.tokenization import MidiProcessor, MusicVAEProcessor

    folder = tmp_path_factory.mktemp("models")
    processor = MidiProcessor.from_pretrained(embedded_checkpoint("museformer-small"))
    facts = processor.model_config_kwargs()
    names = ("vocab_size", "bar_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
    lstm = RecurrentForCausalLM(
        RecurrentConfig(hidden_size=16, embedding_size=8, num_hidden_layers=1, **{name: facts[name] for name in names})
    )
    with torch.no_grad():
        lstm.get_output_embeddings().bias[processor.bar_token_id] = 5.0  # bars of a few notes
    lstm.generation_config = GenerationConfig(**{name: facts[name] for name in names[2:]})
    lstm.save_pretrained(folder / "lstm")
    processor.save_pretrained(folder / "lstm")
    config = MusicVAEConfig.from_preset(
        "mel_2bar_small", encoder_hidden_sizes=(8,), decoder_hidden_sizes=(8,), z_size=4
    )
    MusicVAEModel(config).save_pretrained(folder / "vae")
    MusicVAEProcessor.for_model(config).save_pretrained(folder / "vae")
    return {"COMPARE_LSTM": str(folder / "lstm"), "COMPARE_MUSICVAE": str(folder / "vae")}


@pytest.fixture(scope="session")
def composer_url(tmp_path_factory, small_models):
    """Address of the composer Space."""
    need_space("composer")
    with running_space("composer", tmp_path_factory.mktemp("space"), **small_models) as (url, _):
        yield url


@pytest.fixture(scope="session")
def lame_composer_url(tmp_path_factory, small_models):
    """Address of a composer Space whose MusicVAE cannot be loaded and that has no soundfont."""
    need_space("composer")
    missing = {"COMPARE_MUSICVAE": "no-such-model", "SOUNDFONT": "no-such-file"}
    with running_space("composer", tmp_path_factory.mktemp("lame"), **(small_models | missing)) as (url, _):
        yield url


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

    def __init__(self, browser, url: str, width: int = 1280, scheme: str = "light", ready: str = "Generate"):
        self.url, self.faults = url, []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(90_000)
        self.page.on("request", self._request)
        self.page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.page.on("console", self._console)
        self.page.goto(url)
        self.page.get_by_role("button", name=ready, exact=True).wait_for()

    @staticmethod
    def slack() -> float:
        """How many times longer something may take than on an idle machine: jobs that want a core, per core."""
        return max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)

    def _request(self, request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"request to {request.url}")

    def _console(self, message) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text} {message.location}")

    def leaks(self) -> list[str]:
        """Paths of the server that stand in the page."""
        content = self.page.content()
        return [f"path in the page: {path}" for path in (str(ROOT), "/tmp/", "site-packages") if path in content]

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    def check_layout(self) -> None:
        """Nothing is wider than the screen, lies on anything else, or is hard to read (contrast below 4.5 to 1)."""
        assert self.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert self.page.evaluate(OVERLAPS) == []
        assert self.page.evaluate(FAINT) == []

    def drawn(self) -> list[int]:
        """Notes drawn on each roll."""
        return [
            int(n) for n in self.page.eval_on_selector_all("#roll canvas", "cs => cs.map(c => c.dataset.notes || 0)")
        ]

    def status(self) -> str:
        return self.page.locator("#status").inner_text()

    def version(self, words: str) -> None:
        """Waits until the shown version is called so."""
        self.page.wait_for_function(f"document.querySelector('#history input').value.includes({words!r})")

    def open_file(self, data: bytes, place: str = "#upload", name: str = "piece.mid") -> None:
        """Opens a file with these bytes as the visitor does."""
        with self.page.expect_file_chooser() as chooser:
            self.page.locator(place).click()
        chooser.value.set_files({"name": name, "mimeType": "audio/midi", "buffer": data})

    def told(self) -> str:
        """The message on the page, which is closed."""
        toast = self.page.locator(".toast-body").first
        toast.wait_for()
        text = toast.inner_text()
        self.page.locator(".toast-close").first.click()
        toast.wait_for(state="detached")
        return text

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
        return self.download("Download .mid")

    def download(self, name: str) -> bytes:
        """What stands behind a link."""
        link = self.page.get_by_role("link", name=name)
        link.wait_for()
        with self.page.expect_download() as download:
            link.click()
        return Path(download.value.path()).read_bytes()


OVERLAPS = """() => {
  const parts = '.gradio-container :is(button, input, select), .rolls canvas, #downloads a';
  const shown = [...document.querySelectorAll(parts)]
    .filter(e => e.offsetParent && e.getBoundingClientRect().width > 4 && !e.closest('#player, [role=tablist]')
                 && !['range', 'file', 'radio', 'checkbox'].includes(e.type));
  const boxes = shown.map(e => [e, e.getBoundingClientRect()]), found = [], say = e => e.outerHTML.slice(0, 80);
  for (const [a, p] of boxes) for (const [b, q] of boxes)
    if (a !== b && !a.contains(b) && !b.contains(a) && p.left < q.right - 2 && q.left < p.right - 2
        && p.top < q.bottom - 2 && q.top < p.bottom - 2) found.push(`${say(a)} | ${say(b)}`);
  return found;
}"""
FAINT = """() => {
  const pen = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const over = (under, colour) => { // what is seen of a colour, which may be translucent
    pen.fillStyle = `rgb(${under})`; pen.fillRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const paper = [255, 255, 255], parent = e => e.parentElement ? ground(e.parentElement) : paper;
  const ground = e => over(parent(e), getComputedStyle(e).backgroundColor);
  const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const e of document.querySelectorAll('.gradio-container *')) {
    const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('') || e.value;
    if (!text || !e.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true }) || e.closest('footer, :disabled')
        || ['range', 'file', 'radio', 'checkbox'].includes(e.type)) continue;
    const back = ground(e), ink = over(back, getComputedStyle(e).color), [a, b] = [light(ink), light(back)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)} ${String(text).slice(0, 30)} ${ink} on ${back}`);
  }
  return [...new Set(found)];
}"""


@pytest.fixture
def open_page(browser):
    """open_page(url, ...) is a Visitor of a Space; at the end no visitor may have met a fault."""
    visitors = []

    def visit_page(url: str, **settings) -> Visitor:
        visitors.append(Visitor(browser, url, **settings))
        return visitors[-1]

    yield visit_page
    faults = [fault for visitor in visitors for fault in [*visitor.faults, *visitor.leaks()]]
    for visitor in visitors:
        visitor.context.close()
    assert not faults, "\n".join(faults)


@pytest.fixture
def visit(open_page, composer_url):
    """visit(width, scheme) opens the composer Space."""
    return lambda width=1280, scheme="light", url=composer_url: open_page(url, width=width, scheme=scheme)


@pytest.fixture(scope="session")
def loops_models(tmp_path_factory) -> dict[str, str]:
    """Names and folders of untrained MusicVAEs: melody, drums and trio of two bars with latent facts and attribute
    vectors, melody and trio of sixteen bars (hierarchical) without."""
    from partimento.modeling import MusicVAEConfig, MusicVAEModel
    from partimento.tokenization import MusicVAEProcessor

    save = runpy.run_path(str(ROOT / "tests" / "pipelines" / "conftest.py"))["save_model"]
    folder = tmp_path_factory.mktemp("loops")
    tracks = {"mel": ("melody",), "drums": ("drums",), "trio": ("melody", "bass", "drums")}
    models = {name: str(save(folder / name, parts)) for name, parts in tracks.items()}
    for name, preset in (("mel-16bar", "mel_16bar_tiny"), ("trio-16bar", "trio_16bar_tiny")):
        config = MusicVAEConfig.from_preset(preset)
        MusicVAEModel(config).save_pretrained(folder / name)
        MusicVAEProcessor.for_model(config).save_pretrained(folder / name)
        models[name] = str(folder / name)
    return models


@pytest.fixture(scope="session")
def loops_url(tmp_path_factory, loops_models):
    """Address of a loops Space with these models."""
    need_space("loops")
    with running_space("loops", tmp_path_factory.mktemp("loops_space"), MODEL_ID=",".join(loops_models.values())) as (
        url,
        _,
    ):
        yield url
