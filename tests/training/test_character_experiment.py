"""The character experiment: alphabet, held-out span, resuming, divergence, published figures beside the obtained."""

import json
import math

import numpy as np
import pytest
import torch

from partimento.training.character_experiment import CharacterRun, CharacterSettings, main
from partimento.training.character_report import RunRecord, course, findings
from partimento.training.character_text import (
    CharacterTokenizer,
    find_words,
    read_text,
    share_of_known_words,
    surface_figures,
)

TEXT = "¿Qué gigantes? —dijo Sancho Panza—. Aquellos que allí ves, respondió su amo. " * 12


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "quijote.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize("unit", ["char", "byte"])
def test_tokenizer_round_trip(unit, tmp_path):
    tokenizer = CharacterTokenizer.from_text(TEXT, unit)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert len(ids) == len(TEXT if unit == "char" else TEXT.encode())
    assert len(tokenizer) == len(set(TEXT if unit == "char" else TEXT.encode()))
    tokenizer.save(tmp_path / "alphabet.json")
    assert CharacterTokenizer.load(tmp_path / "alphabet.json") == tokenizer
    with pytest.raises(ValueError, match="alphabet"):
        tokenizer.encode("€")


def test_text_is_cut_once(text_file):
    data = read_text(text_file)
    assert len(data.held_out) == len(TEXT) - round(0.95 * len(TEXT))
    assert data.tokenizer.decode(np.concatenate([data.train, data.held_out])) == TEXT
    assert data.facts["symbols"] == len(TEXT)
    text_file.write_text("abc")
    with pytest.raises(ValueError, match="too few"):
        read_text(text_file)


def test_known_words():
    assert find_words("¿Qué... gigantes_2?") == ["qué", "gigantes"]
    assert share_of_known_words("cut amo su molino end", frozenset({"amo", "su"})) == pytest.approx(2 / 3)
    assert share_of_known_words("cut end", frozenset()) is None


def test_surface_of_prose_by_hand():
    text = "¿Dónde está?\n—Aquí —dijo Sancho Panza.\n\n¿Y el otro\n¿Quién?\n"
    found = surface_figures(text)
    assert found["questions closed"] == pytest.approx(2 / 3)
    assert found["lines of dialogue"] == 1 / 4
    assert found["Sancho Panza, per 10,000"] == pytest.approx(1e4 / len(text))
    assert found["don Quijote, per 10,000"] == 0
    assert found["braces matched"] is found["includes closed"] is found["lines ending in ; { }"] is None


def test_surface_of_code_by_hand():
    text = "#include <a.h>\n#include <b.h\nint f(void)\n{\n\treturn 1;\n}}\n"
    found = surface_figures(text, phrases=())
    assert found == {
        "questions closed": None,
        "lines of dialogue": 0,
        "braces matched": pytest.approx(2 / 3),
        "includes closed": 1 / 2,
        "lines ending in ; { }": 3 / 6,
    }


def test_course_of_the_cost():
    def record(*costs, diverged_at=None):
        curve = [{"step": 10 * i, "cost": cost, "norm": 1.0} for i, cost in enumerate(costs, start=1)]
        return RunRecord("lstm", None, 0, curve=curve, diverged_at=diverged_at)

    assert course([record(3, 2, 1), record(3, 1, 1.01)]) == "falls to the end (2 of 2 seeds)"
    assert course([record(3, 1, 2), record(3, 2, 1)]) == "rises by 1.00 after 20, falls to the end"
    assert course([record(3, 1, diverged_at=25)]) == "diverges at 25 (1 of 1 seeds)"


def options(text_file, folder, *more):
    settings = ["--text", str(text_file), "--steps", "12", "--hidden-size", "8", "--window", "20", "--save-every", "5"]
    return [*settings, "--cells", "rnn_tanh", "lstm", "--seeds", "0", "1", "-o", str(folder), *more]


def test_one_command_makes_table_and_plot(text_file, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(options(text_file, folder)) == 0
    report = json.loads((folder / "report.json").read_text())
    assert [(row["cell"], row["clip"]) for row in report["rows"]] == [
        (cell, clip) for cell in ("rnn_tanh", "lstm") for clip in (None, 5.0)
    ]
    for row in report["rows"]:
        assert len(row["final_cost"]) == 2
        assert all(0 < bits < 30 for bits in row["held_out_bits"])
        assert row["published"]["parameters"] in (26_180, 80_480)
        assert len(row["samples"][0]) == 1 + CharacterSettings().sample_symbols
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "0.00% of the published 500,000" in (folder / "report.md").read_text()
    assert "| 26,180 |" in (folder / "report.md").read_text()  # published, in one table with what was found
    before = (folder / "runs" / "lstm-clip5-seed1.json").stat().st_mtime_ns
    assert main(options(text_file, folder)) == 0  # nothing is made twice
    assert (folder / "runs" / "lstm-clip5-seed1.json").stat().st_mtime_ns == before
    assert main(options(text_file, folder, "--steps", "13")) == 2
    assert "steps" in capsys.readouterr().err
    assert main(options(text_file, tmp_path / "x", "--clip", "-1")) == 2


class InterruptedRunError(Exception):
    pass


class Bar:
    """A progress bar that stops the run after some steps."""

    def __init__(self, stop_at=None):
        self.count, self.stop_at = 0, stop_at

    def update(self, n=1):
        self.count += n
        if self.count == self.stop_at:
            raise InterruptedRunError


def test_interrupted_run_goes_on_as_if_nothing_had_happened(text_file, tmp_path):
    data, settings = read_text(text_file), CharacterSettings(steps=60, hidden_size=8, window=20, sample_symbols=50)

    def run(folder, bar):
        folder.mkdir(exist_ok=True)
        return CharacterRun(RunRecord("lstm", 5.0, 3), settings, data, folder).run(10, bar)

    straight = run(tmp_path / "a", Bar())
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "b", Bar(47))
    resumed = run(tmp_path / "b", Bar())
    assert resumed.step == straight.step == 60
    assert 60 * settings.window > len(data.train)  # the text began anew on the way
    assert resumed.smoothed == straight.smoothed
    assert resumed.held_out_bits == straight.held_out_bits
    assert resumed.sample == straight.sample
    assert resumed.curve == straight.curve


def test_state_is_carried_within_the_text_and_dropped_at_its_beginning(text_file, tmp_path):
    data, settings = read_text(text_file), CharacterSettings(steps=1000, hidden_size=8, window=20, learning_rate=0.0)
    run = CharacterRun(RunRecord("gru_thesis", None, 0), settings, data, tmp_path)
    windows = (len(data.train) - 1) // settings.window
    for _ in range(windows):
        run.step()
    logits, labels = [], []
    with torch.no_grad():
        ids = torch.from_numpy(data.train)[None, : windows * settings.window + 1]
        whole = run.model(ids[:, :-1], use_cache=True)
        logits, labels = whole.logits[0], ids[0, 1:]
    costs = torch.nn.functional.cross_entropy(logits, labels, reduction="none").view(windows, -1).mean(1)
    smoothed = costs[0].item()
    for cost in costs[1:].tolist():
        smoothed = 0.999 * smoothed + 0.001 * cost
    assert math.isclose(run.record.smoothed, smoothed, rel_tol=1e-5)
    assert torch.allclose(run.cache.states[0][0], whole.past_key_values.states[0][0], atol=1e-6)
    run.step()
    fresh = run.model(ids[:, : settings.window], use_cache=True).past_key_values
    assert torch.allclose(run.cache.states[0][0], fresh.states[0][0], atol=1e-6)


def test_clipping_bounds_the_gradient_and_divergence_is_recorded(text_file, tmp_path):
    data = read_text(text_file)
    run = CharacterRun(RunRecord("rnn_tanh", 0.01, 0), CharacterSettings(hidden_size=8), data, tmp_path)
    run.step()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in run.model.parameters()))
    assert norm == pytest.approx(0.01, rel=1e-3)
    assert run.record.norm_max > 0.01  # noted before clipping
    with torch.no_grad():
        run.model.lm_head.bias.fill_(math.nan)
    record = run.run(10, Bar())
    assert (record.diverged_at, record.held_out_bits, record.done) == (2, None, True)


def test_findings():
    rows = [
        {"cell": "rnn_tanh", "clip": 5.0, "held_out_bits": [3.0, 3.2]},
        {"cell": "gru_thesis", "clip": 5.0, "held_out_bits": [2.0, 2.0]},
        {"cell": "lstm", "clip": 5.0, "held_out_bits": [1.5, 1.7]},
        {"cell": "rnn_tanh", "clip": None, "held_out_bits": [3.5, 3.7]},
        {"cell": "lstm", "clip": None, "held_out_bits": [1.4, None]},
    ]
    found = findings(rows)
    assert found["published_order_holds"] == {"clipped at 5": True, "no clipping": None}
    assert found["bits_gained_by_clipping"] == {"rnn_tanh, clipped at 5": pytest.approx(0.5)}
