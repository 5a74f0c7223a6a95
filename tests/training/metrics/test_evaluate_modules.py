"""The modules of spaces/metrics: loaded offline, README's examples print what stands there, bad input is named."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

from partimento.training.metrics.descriptors import polyphony
from partimento.training.metrics.notes import Notes

evaluate = pytest.importorskip("evaluate", reason="the modules need the library evaluate: pip install partimento[eval]")
ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "spaces" / "metrics"
NAMES = sorted(path.name for path in FOLDER.glob("*") if path.is_dir())
pytestmark = pytest.mark.skipif(not NAMES, reason="runs outside the checkout: no spaces/ there")


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_there_are_modules():
    assert {"similarity_error", "bar_similarity", "bits_per_bar", "ngram_novelty", "frechet_music_distance"} <= set(
        NAMES
    )
    for name in NAMES:
        assert sorted(path.name for path in (FOLDER / name).iterdir() if path.is_file()) == ["README.md", f"{name}.py"]


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_shows_what_its_example_prints(name):
    text = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    (code,), (expected,) = (re.findall(rf"```{kind}\n(.*?)```", text, re.S) for kind in ("python", "text"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"{name}/README.md", "exec"), {})
    assert printed.getvalue() == expected
    module = evaluate.load(f"spaces/metrics/{name}")
    assert "Args:" in module.inputs_description
    assert "Returns:" in module.inputs_description


def test_midi_files_are_pieces(tmp_path, make_score):
    paths = []
    for seed in range(3):
        paths.append(str(tmp_path / f"{seed}.mid"))
        make_score(seed, num_bars=6).dump_midi(paths[-1])
    result = evaluate.load("spaces/metrics/polyphony").compute(predictions=paths)
    assert result["each"] == [polyphony(Notes.from_midi(path)) for path in paths]
    assert result["polyphony"] == pytest.approx(np.mean(result["each"]))
    error = evaluate.load("spaces/metrics/similarity_error")
    assert error.compute(predictions=paths, training=paths[::-1], max_lag=4)["similarity_error"] == 0
    similarity = evaluate.load("spaces/metrics/bar_similarity").compute(predictions=paths, max_lag=4)
    bars = [Notes.from_midi(path).num_bars for path in paths]
    assert similarity["pairs"] == [sum(n - t for n in bars) for t in range(1, 5)]


def test_bad_input_is_named(tmp_path):
    module = evaluate.load("spaces/metrics/empty_bars")
    with pytest.raises(ValueError, match=r"piece 1: note .* duration > 0"):
        module.compute(predictions=[[(0, 1, 60, 0)], [(0, 0, 60, 0)]])
    broken = tmp_path / "broken.mid"
    broken.write_bytes(b"no midi")
    with pytest.raises(ValueError, match=r"broken\.mid"):
        module.compute(predictions=[str(broken)])
    with pytest.raises(ValueError, match="choose a smaller max_lag"):
        evaluate.load("spaces/metrics/similarity_error").compute(
            predictions=[[(0, 1, 60, 0)]], training=[[(0, 1, 60, 0)]]
        )


def test_a_set_without_the_figure_has_none():
    result = evaluate.load("spaces/metrics/scale_consistency").compute(predictions=[[(0, 1, 36, -1)]])
    assert result == {"scale_consistency": None, "each": [None], "skipped": 1}
