"""The Composer Space as a visitor uses it, in headless Chromium; any foreign request or console error fails a test."""

import re

import pytest
from symusic import Score

pytestmark = pytest.mark.slow


def notes_of(midi: bytes) -> list[tuple[int, ...]]:
    score = Score.from_midi(midi).to("quarter")
    return sorted(
        (-1 if track.is_drum else track.program, round(note.time, 3), note.pitch, round(note.duration, 3))
        for track in score.tracks
        for note in track.notes
    )


def test_prompt_edit_generate_play_download(visit):
    """Prompt rows, an edited tempo, growing rolls, the playhead, a download that matches, the same seed again."""
    visitor = visit()
    page = visitor.page
    page.locator("#prompt textarea").fill("sad jazz trio with piano, bass and drums, 4 bars, rainy")
    page.get_by_role("button", name="Read prompt").click()
    page.wait_for_function("document.querySelector('#understood').innerText.includes('rainy')")
    assert "not used" in page.locator("#understood").inner_text()
    assert page.locator("#genre input").input_value() == "Jazz"
    assert "from the prompt" in page.locator("#genre").inner_text()
    visitor.set_number("tempo", 120)
    page.wait_for_function("document.querySelector('#tempo').innerText.includes('set by you')")
    page.locator("button", has_text="Sampling").click()
    visitor.set_number("seed", 3)

    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function("[...document.querySelectorAll('#roll canvas')].some(c => Number(c.dataset.notes) > 0)")
    early, status = visitor.drawn(), visitor.status()
    assert re.search(r"Output 1: bar \d of 4 · Output 2: bar \d of 4", status), "still being written"
    visitor.wait_done()
    assert len(early) == 2
    assert sum(visitor.drawn()) > sum(early) > 0

    midi = visitor.midi()
    first = notes_of(midi)
    assert len(first) == visitor.drawn()[0]
    assert {program for program, *_ in first} == {-1, 0, 32}
    assert {round(tempo.qpm) for tempo in Score.from_midi(midi).tempos} == {124}, "the nearest of the model's tempos"
    report = page.locator("#report").inner_text()
    assert "120 bpm" in report
    assert "missed" not in "".join(line for line in report.splitlines() if line.startswith(("bars", "instr")))
    visitor.shot("composer-1280")

    page.locator("midi-player").evaluate("player => player.start()")
    page.wait_for_function("Number(document.querySelector('#roll canvas').dataset.playhead) > 0.5")
    page.locator("midi-player").evaluate("player => player.stop()")

    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function("!document.querySelector('#status').innerText.startsWith('Done')")
    visitor.wait_done()
    assert notes_of(visitor.midi()) == first


def test_stop_continue_undo(visit):
    """Stop keeps the finished bars; a continuation leaves them as they are; undo brings the shorter piece back."""
    visitor = visit(390, "dark")
    page = visitor.page
    page.locator("#prompt textarea").fill("piano and drums, 64 bars")
    visitor.set_number("num_outputs", 1)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function("Number((document.querySelector('#roll canvas') || {dataset: {}}).dataset.bars) >= 2")
    page.get_by_role("button", name="Stop").click()
    visitor.wait_done(60)
    assert visitor.status().startswith("Stopped")
    stopped = visitor.midi()
    bars = -(-int(Score.from_midi(stopped).to("quarter").end()) // 4)
    assert 1 <= bars < 64
    drawn = visitor.drawn()
    visitor.shot("composer-390-dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    field = page.get_by_label("number input for Bars to add")
    field.fill("1")
    field.press("Enter")
    page.get_by_role("button", name="Continue this output").click()
    page.wait_for_function("/continued/.test(document.querySelector('#history input').value)")
    visitor.wait_done()
    longer = notes_of(visitor.midi())
    end = max(onset for _, onset, *_ in notes_of(stopped)) + 1e-6
    before = [note[:3] for note in longer if note[1] <= end]
    assert [note[:3] for note in notes_of(stopped)] == before[: len(notes_of(stopped))]
    assert len(longer) > len(notes_of(stopped))

    page.get_by_role("button", name="Undo").click()
    page.wait_for_function(f"Number(document.querySelector('#roll canvas').dataset.notes) === {drawn[0]}")
    assert notes_of(visitor.midi()) == notes_of(stopped)


def test_bad_uploads_are_told_and_the_page_goes_on(visit, tmp_path):
    empty, text = tmp_path / "empty.mid", tmp_path / "text.mid"
    Score(480).dump_midi(empty)
    text.write_text("no MIDI at all")
    damaged = tmp_path / "damaged.mid"
    damaged.write_bytes(b"MThd\x00\x00\x00\x06\x00\x01\x00\x02\x01\xe0MTrk\xff\xff\xff\xff" + bytes(range(40)))
    visitor = visit()
    page = visitor.page
    page.locator("button", has_text="Continue a MIDI file").click()
    for path, message in ((text, "could not be read as MIDI"), (empty, "contains no notes"), (damaged, "This")):
        page.locator("#upload input[type=file]").set_input_files(path)
        page.get_by_text(path.name.removesuffix(".mid")).first.wait_for()
        page.get_by_role("button", name="Continue the file").click()
        toast = page.locator(".toast-body").first
        toast.wait_for()
        said = toast.inner_text()
        assert message in said
        assert "/" not in said.replace("4/4", ""), "no path in a message"
        page.locator(".toast-close").first.click()
        page.locator(".toast-body").first.wait_for(state="detached")
        page.locator("#upload").get_by_label("Clear").click()
    page.locator("#prompt textarea").fill("piano, 4 bars")
    visitor.set_number("num_outputs", 1)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function("document.querySelector('#status').innerText.includes('bar')")
    visitor.wait_done()


def test_two_visitors_do_not_see_each_other(visit):
    first, second = visit(), visit()
    first.page.locator("#prompt textarea").fill("piano, 4 bars")
    first.set_number("num_outputs", 1)
    first.page.locator("#prompt textarea").press("Tab")  # by keyboard alone
    first.page.locator("#generate").focus()
    first.page.keyboard.press("Enter")
    first.page.wait_for_function("document.querySelector('#status').innerText.includes('bar')")
    first.wait_done()
    assert first.drawn()[0] > 0
    second.page.get_by_role("button", name="Undo").click()
    second.page.wait_for_function("document.querySelector('#status').innerText.includes('Nothing made yet')")
    assert second.drawn() == []
    assert second.page.locator("#history input").input_value() == ""
