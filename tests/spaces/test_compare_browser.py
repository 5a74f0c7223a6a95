"""The comparison as a visitor uses it, in headless Chromium."""

import io
import json
import re
import zipfile

import pytest
from symusic import Score

pytestmark = [pytest.mark.slow, pytest.mark.browser]
WRITTEN = "/models have written/.test(document.querySelector('#compare-status').innerText)"

THIRD = "document.querySelectorAll('#compare-roll canvas')[2]"
LOADED = f"""{THIRD}.dataset.selected === 'true' && (sequence => sequence
  && String(sequence.notes.length) === {THIRD}.dataset.notes)(document.querySelector('midi-player').noteSequence)"""


def open_tab(visitor):
    visitor.page.get_by_role("tab", name="Compare").click()
    visitor.page.locator("#compare-run").wait_for()
    visitor.set_number("compare-bars", 2)
    visitor.set_number("compare-seed", 5)
    return visitor.page


def drawn(page) -> list[int]:
    return [int(n) for n in page.eval_on_selector_all("#compare-roll canvas", "cs => cs.map(c => c.dataset.notes)")]


def test_a_primer_yields_three_playable_results(visit, make_score):
    visitor = visit()
    page = open_tab(visitor)
    primer = make_score(3, num_bars=3, programs=(0, -1), notes_per_bar=4).dumps_midi()
    visitor.open_file(primer, "#compare-upload")
    page.wait_for_function("document.querySelector('#compare-primer').innerText.includes('3 bars')")
    visitor.set_number("compare-primer-bars", 2)
    page.locator("#compare-run").click()
    page.wait_for_function(WRITTEN)
    assert page.locator("#compare-status").inner_text().startswith("3 of 3")
    assert len(drawn(page)) == 3
    assert min(drawn(page)) > 0
    text = page.locator("#compare-table").inner_text()
    assert text.count("continues the 2 bars") == 2
    assert "varies bars 1 to 2 (melody" in text
    visitor.shot("compare-1280")

    with zipfile.ZipFile(io.BytesIO(visitor.download("Download all"))) as archive:
        pieces = {name: archive.read(name) for name in archive.namelist()}
    settings = json.loads(pieces.pop("settings.json"))
    assert (settings["bars"], settings["primer_bars"], settings["seed"]) == (2, 2, 5)
    assert sorted(pieces) == ["1_lstm_baseline.mid", "2_musicvae.mid", "3_museformer.mid"]
    scores = [Score.from_midi(data).to("quarter") for data in pieces.values()]
    assert [score.note_num() for score in scores] == drawn(page)
    assert len({score.tempos[0].qpm for score in scores}) == 1
    assert all(max(note.time for track in score.tracks for note in track.notes) < 16 for score in scores)

    page.get_by_role("radio", name="Museformer").check()
    page.wait_for_function(LOADED)
    page.locator("midi-player").evaluate("player => player.start()")
    page.wait_for_function(f"Number({THIRD}.dataset.playhead) > 0.5")
    page.locator("midi-player").evaluate("player => player.stop()")


def test_names_are_hidden_until_one_is_preferred(visit):
    visitor = visit(390, "dark")
    page = open_tab(visitor)
    page.get_by_role("checkbox", name="Blind").check()
    page.locator("#compare-run").click()
    page.wait_for_function(WRITTEN)
    page.locator("#compare-prefer").wait_for()
    shown = page.locator("#compare-roll").inner_text() + page.locator("#compare-table").inner_text()
    assert not re.search("LSTM|VAE|Museformer|parameters|seconds", shown)
    page.locator("#compare-prefer").get_by_role("radio", name="Piece B").click()  # it disappears, so `check` would wait
    page.wait_for_function("document.querySelector('#compare-status').innerText.includes('which is by')")
    assert re.search(
        r"Your choices so far: (LSTM baseline|MusicVAE|Museformer) 1", page.locator("#compare-status").inner_text()
    )
    assert "parameters" in page.locator("#compare-table").inner_text()
    visitor.shot("compare-390-dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_model_that_fails_leaves_the_other_two(visit, lame_composer_url):
    visitor = visit(url=lame_composer_url)
    page = open_tab(visitor)
    page.locator("#compare-run").click()
    page.wait_for_function(WRITTEN)
    assert page.locator("#compare-status").inner_text().startswith("2 of 3")
    assert "could not be loaded" in page.locator("#compare-roll").inner_text()
    assert [count > 0 for count in drawn(page)] == [True, False, True]
