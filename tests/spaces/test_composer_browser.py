"""The composer Space as a visitor uses it, in headless Chromium. Any request to another host, page error, console error
or path of the server in the page fails a test."""

import io
import itertools
import math
import re
import time
import wave
import xml.etree.ElementTree as ET

import pytest
from symusic import Note, Score, Tempo, Track

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def notes_of(midi: bytes) -> list[tuple[int, ...]]:
    """(program, onset in quarters, pitch, length)"""
    score = Score.from_midi(midi).to("quarter")
    return sorted(
        (-1 if track.is_drum else track.program, round(note.time, 3), note.pitch, round(note.duration, 3))
        for track in score.tracks
        for note in track.notes
    )


def generate(visitor, prompt: str, outputs: int = 1) -> None:
    visitor.page.locator("#prompt textarea").fill(prompt)
    visitor.set_number("num_outputs", outputs)
    visitor.page.locator("#generate").click()
    visitor.page.wait_for_function("document.querySelector('#status').innerText.includes('bar')")
    visitor.wait_done()


def test_prompt_edit_generate_play_download(visit):
    """Prompt rows, an edited tempo, growing rolls, the playhead, a download that matches, the same seed again."""
    visitor = visit()
    page = visitor.page
    page.locator("#prompt textarea").fill("sad jazz trio with piano, bass and drums, 8 bars, rainy")
    page.get_by_role("button", name="Read prompt").click()
    page.wait_for_function("document.querySelector('#understood').innerText.includes('rainy')")
    assert "not used" in page.locator("#understood").inner_text()
    assert page.locator("#genre input").input_value() == "Jazz"
    assert "from the prompt" in page.locator("#genre").inner_text()
    visitor.set_number("tempo", 120)
    page.wait_for_function("document.querySelector('#tempo').innerText.includes('set by you')")
    page.locator("button", has_text="Sampling").click()
    visitor.set_number("seed", 3)

    page.evaluate(WATCH)
    begun = time.monotonic()
    page.locator("#generate").click()
    page.wait_for_function("[...document.querySelectorAll('#roll canvas')].some(c => Number(c.dataset.notes) > 0)")
    took = time.monotonic() - begun
    print(f"\nfirst bar drawn after {took:.2f} s")
    assert took < 3 * visitor.slack()
    visitor.wait_done()
    growing = [(sum(notes), status) for notes, status in page.evaluate("seen") if "bar" in status]
    counts = [[int(bar) for bar in re.findall(r"Output \d: bar (\d) of 8", status)] for _, status in growing]
    assert all(len(bars) == 2 for bars in counts), "both outputs are counted"
    assert [sum(bars) for bars in counts] == sorted(sum(bars) for bars in counts)
    assert sum(counts[-1]) > sum(counts[0]), "the counter advances"
    drawn = [notes for notes, _ in growing]
    assert drawn == sorted(drawn)
    final = sum(visitor.drawn())
    assert any(0 < notes < final for notes in drawn), "notes are drawn before the piece is finished"

    midi = visitor.midi()
    first = notes_of(midi)
    assert len(first) == visitor.drawn()[0]
    assert {program for program, *_ in first} == {-1, 0, 32}
    assert [tempo.qpm for tempo in Score.from_midi(midi).tempos] == [120], "as asked, exactly"
    report = page.locator("#report").inner_text()
    assert "120 bpm" in report
    assert "missed" not in "".join(line for line in report.splitlines() if line.startswith(("bars", "instr")))
    visitor.shot("composer-1280")

    page.locator("midi-player").evaluate("player => player.start()")
    page.wait_for_function("Number(document.querySelector('#roll canvas').dataset.playhead) > 0.5")
    page.locator("midi-player").evaluate("player => player.stop()")

    page.locator("#generate").click()
    page.wait_for_function("!document.querySelector('#status').innerText.startsWith('Done')")
    visitor.wait_done()
    assert notes_of(visitor.midi()) == first


def test_stop_continue_undo(visit):
    """Stop keeps the finished bars; a continuation leaves them as they are; undo brings the shorter piece back."""
    visitor = visit(390, "dark")
    page = visitor.page
    page.locator("#prompt textarea").fill("piano and drums, 64 bars")
    visitor.set_number("num_outputs", 1)
    page.locator("#generate").click()
    page.wait_for_function("Number((document.querySelector('#roll canvas') || {dataset: {}}).dataset.bars) >= 2")
    begun = time.monotonic()
    page.locator("#stop").click()
    visitor.wait_done(60)
    took = time.monotonic() - begun
    print(f"\nstopped after {took:.2f} s")
    assert took < 1 * visitor.slack()
    assert visitor.status().startswith("Stopped")
    stopped = visitor.midi()
    bars = -(-int(Score.from_midi(stopped).to("quarter").end()) // 4)
    assert 1 <= bars < 64
    drawn = visitor.drawn()
    visitor.shot("composer-390-dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    visitor.set_number("more", 1)
    page.locator("#continue").click()
    visitor.version("continued")
    longer = notes_of(visitor.midi())
    end = max(onset for _, onset, *_ in notes_of(stopped)) + 1e-6
    before = [note[:3] for note in longer if note[1] <= end]
    assert [note[:3] for note in notes_of(stopped)] == before[: len(notes_of(stopped))]
    assert len(longer) > len(notes_of(stopped))

    page.locator("#undo").click()
    page.wait_for_function(f"Number(document.querySelector('#roll canvas').dataset.notes) === {drawn[0]}")
    assert notes_of(visitor.midi()) == notes_of(stopped)
    page.locator("#redo").click()
    visitor.version("continued")
    assert notes_of(visitor.midi()) == longer


def test_open_rewrite_continue_undo(visit, make_score):
    """An opened file keeps its notes: when bars 2 to 3 are rewritten all others stay, a continuation stands behind."""
    visitor = visit()
    page = visitor.page
    visitor.open_file(make_score(5, num_bars=5, programs=(0, 33, -1), notes_per_bar=4).dumps_midi())
    visitor.version("opened a file")
    assert "5 bars in 4/4" in visitor.status()
    opened = notes_of(visitor.midi())
    assert len(opened) == visitor.drawn()[0] > 0

    canvas = page.locator("#roll canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for action, bar in (("move", 2), ("down", 2), ("move", 3), ("up", 3)):
        place = (box["x"] + 34 + (bar - 0.5) / 5 * (box["width"] - 38), box["y"] + 60)
        page.mouse.move(*place) if action == "move" else getattr(page.mouse, action)()
    page.wait_for_function("document.querySelector('#last input').value === '3'")
    assert page.locator("#first input").input_value() == "2"
    page.locator("#rewrite").click()
    visitor.version("bars 2 to 3 rewritten")
    rewritten = notes_of(visitor.midi())
    assert rewritten != opened
    assert [note for note in rewritten if not 4 <= note[1] < 12] == [note for note in opened if not 4 <= note[1] < 12]
    visitor.shot("composer-rewritten")

    visitor.set_number("more", 1)
    visitor.set_number("after", 3)
    visitor.set_number("num_outputs", 1)
    page.locator("#continue").click()
    visitor.version("continued")
    continued = notes_of(visitor.midi())
    assert [note[:3] for note in continued if note[1] < 12] == [note[:3] for note in rewritten if note[1] < 12]
    assert 12 <= max(note[1] for note in continued) < 16

    page.locator("#undo").click()
    visitor.version("rewritten")
    page.locator("#undo").click()
    visitor.version("opened a file")
    assert notes_of(visitor.midi()) == opened

    visitor.set_number("last", 9)
    page.locator("#rewrite").click()
    assert "The piece has bars 1 to 5" in visitor.told()
    visitor.set_number("first", 2)
    visitor.set_number("last", 3)
    page.locator("#tracks input").fill("bass")
    page.get_by_role("option", name="bass", exact=True).click()
    page.locator("#keep").click()
    visitor.version("bars 2 to 3 kept")
    kept = [(-1 if p < 0 else p, start - 4, pitch) for p, start, pitch, _ in opened if 4 <= start < 12 and p == 33]
    assert [note[:3] for note in notes_of(visitor.midi())] == kept != []


def test_versions_are_copied_and_heard_in_turn(visit, make_score):
    """Duplicate makes a version; A/B goes from one to the other and plays on from the same place; zoom widens bars."""
    visitor = visit()
    page = visitor.page
    for seed in (5, 6):
        visitor.open_file(make_score(seed, num_bars=8, programs=(0, 33), notes_per_bar=6).dumps_midi())
        page.wait_for_function(f"document.querySelector('#history input').value.startsWith('{seed - 4}.')")
    second = notes_of(visitor.midi())
    page.locator("#duplicate").click()
    visitor.version("3. copy of 2")
    assert notes_of(visitor.midi()) == second
    page.locator("#undo").click()
    visitor.version("2. opened")
    page.locator("#history input").click()
    page.get_by_role("option", name="1. opened").click()
    visitor.version("1. opened")
    first = notes_of(visitor.midi())
    assert first != second

    page.locator("midi-player").evaluate("player => player.start()")
    page.wait_for_function("document.querySelector('midi-player').currentTime > 1")
    page.locator("#swap").click()
    visitor.version("2. opened")
    page.wait_for_function("(p => p.playing && p.currentTime > 1)(document.querySelector('midi-player'))")
    assert notes_of(visitor.midi()) == second
    page.locator("midi-player").evaluate("player => player.stop()")
    page.locator("#swap").click()
    visitor.version("1. opened")
    page.wait_for_function("document.querySelector('#status').innerText.includes('A/B changes to version 2')")
    assert notes_of(visitor.midi()) == first

    canvas = page.locator("#roll canvas").first
    before = canvas.bounding_box()["width"]
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Zoom in").click()
    assert canvas.bounding_box()["width"] == pytest.approx(4 * before, rel=0.01)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    visitor.shot("composer-zoom")
    page.get_by_role("button", name="Zoom out").click()
    assert canvas.bounding_box()["width"] == pytest.approx(2 * before, rel=0.01)


def test_the_player_loops_and_changes_its_tempo(visit):
    """The chosen bars, or else the piece, begin again at their end; the tempo changes while it plays, from the same
    place and at the same pitch, and not in the file. All of it by keyboard and on a phone."""
    visitor = visit(390, "dark")
    page, player = visitor.page, visitor.page.locator("midi-player")
    score = Score(480)
    score.tempos.append(Tempo(0, 120))
    for program, pitches in ((0, range(60, 80)), (33, range(40, 60))):
        track = Track(program=program)
        for beat, pitch in enumerate(pitches):
            track.notes.append(Note(480 * beat, 480, pitch, 80))
        score.tracks.append(track)
    visitor.open_file(score.dumps_midi())
    visitor.version("opened a file")
    page.wait_for_function("document.querySelector('midi-player').duration > 9")
    midi = visitor.midi()
    assert page.locator("#player label").first.inner_text().split() == ["Loop", "the", "piece"]
    above, loop, tempo = page.eval_on_selector_all(
        "#player :is(midi-player, label)", "parts => parts.map(part => part.getBoundingClientRect().toJSON())"
    )
    assert min(above["left"], loop["left"]) >= 0
    assert max(above["right"], tempo["right"]) <= 390
    assert loop["right"] < tempo["left"]
    assert above["bottom"] <= min(loop["top"], tempo["top"])

    beat = 60 / Score.from_midi(midi).tempos[0].qpm

    def beats(heard: list[dict]) -> list[int]:
        return [round(note["start"] / beat) for note in heard]

    def clock(name: str) -> float:
        """Seconds that the player shows as `current` or `total`."""
        shown = player.evaluate(f"player => player.shadowRoot.querySelector('.{name}-time').innerText")
        minutes, seconds = shown.split(":")
        return 60 * int(minutes) + int(seconds)

    assert clock("total") == pytest.approx(20 * beat, abs=1)
    page.evaluate(LISTEN)
    visitor.set_number("last", 3)
    visitor.set_number("first", 2)
    page.wait_for_function("document.querySelector('#player label').innerText.includes('bars 2–3')")
    page.locator("#player .loop").focus()
    page.keyboard.press("Space")
    page.locator("#player .speed").focus()
    page.keyboard.press("End")
    assert page.locator("#player .speed").get_attribute("aria-valuetext") == f"150 %, {90 / beat:.0f} bpm"
    assert clock("total") == pytest.approx(20 * beat / 1.5, abs=1), "as long as the piece lasts at this tempo"
    player.evaluate("player => player.start()")
    page.wait_for_function("heard.length > 24")
    fast = page.evaluate("heard")
    assert beats(fast)[:17:2] == [4, 5, 6, 7, 8, 9, 10, 11, 4], "bars 2 and 3, and again"
    assert pace_of(fast) == pytest.approx(1.5, rel=0.05)

    page.evaluate("heard.length = 0")
    page.keyboard.press("Home")
    page.wait_for_function("heard.length > 12")
    slow = page.evaluate("heard")
    steps = {after - before for before, after in itertools.pairwise(beats(slow))}
    assert steps <= {0, 1, 4 - 11}, "it goes on where it was"
    assert pace_of(slow[-6:]) == pytest.approx(0.5, rel=0.05)
    assert clock("total") == pytest.approx(20 * beat / 0.5, abs=1)
    player.evaluate("player => { player.stop(); player.currentTime = 8; }")
    assert clock("current") == 16, "the place is in the time of the clock, too"
    player.evaluate("player => player.start()")
    page.wait_for_function(f"heard.length > {len(slow) + 2}")
    sounds = page.evaluate("sounds")
    pitches = [69 + 12 * math.log2(sound["hertz"] / 440) for sound in sounds]
    assert {round(pitch, 3) for pitch in pitches} <= set(range(60, 80)), "the pitches that are written"
    assert sounds[0]["seconds"] == pytest.approx(beat / 1.5, rel=0.02)
    assert sounds[-1]["seconds"] == pytest.approx(beat / 0.5, rel=0.02)
    visitor.check_layout()
    visitor.shot("composer-player-390-dark")

    page.keyboard.press("End")
    page.locator("#player .loop").uncheck()
    page.evaluate("heard.length = 0")
    page.wait_for_function(f"heard.some(note => note.start > {12.5 * beat})")  # behind the chosen bars
    player.evaluate("player => player.stop()")
    canvas = page.locator("#roll canvas").first
    for _ in range(2):  # the second click frees the bar that the first has chosen
        canvas.click(position={"x": 60, "y": 60})
    page.wait_for_function("document.querySelector('#player label').innerText.includes('the piece')")
    page.locator("#player .loop").check()
    player.evaluate(f"player => {{ heard.length = 0; player.currentTime = {17.5 * beat}; player.start(); }}")
    page.wait_for_function("heard.length > 8")
    assert beats(page.evaluate("heard"))[:8:2] == [18, 19, 0, 1], "to the end, and from the beginning"
    player.evaluate(f"player => {{ player.currentTime = {5.5 * beat}; heard.length = 0; }}")
    page.wait_for_function("heard.length > 4")
    assert beats(page.evaluate("heard"))[:4:2] == [6, 7], "any place can be looked for, also an earlier one"
    player.evaluate("player => player.stop()")
    assert visitor.midi() == midi


def pace_of(heard: list[dict]) -> float:
    """Seconds of the written piece for every second of sound, without the places where it turns back."""
    steps = [(b["start"] - a["start"], b["time"] - a["time"]) for a, b in itertools.pairwise(heard)]
    return sum(written for written, _ in steps if written > 0) / sum(time for written, time in steps if written > 0)


def test_bad_uploads_are_told_and_the_page_goes_on(visit):
    damaged = b"MThd\x00\x00\x00\x06\x00\x01\x00\x02\x01\xe0MTrk\xff\xff\xff\xff" + bytes(range(40))
    visitor = visit()
    for data, message in (
        (b"no MIDI at all", "could not be read as MIDI"),
        (Score(480).dumps_midi(), "contains no notes"),
        (damaged, "This"),
        (b"x" * 2_100_000, "exceed the maximum allowed size"),
    ):
        visitor.open_file(data)
        said = visitor.told()
        assert message in said
        assert "/" not in said.replace("4/4", ""), "no path in a message"
    generate(visitor, "piano, 4 bars")
    assert visitor.drawn()[0] > 0


def test_files_to_take_home(visit):
    """WAV, MusicXML, one file per track, and the settings; the links hold no path of the server."""
    visitor = visit()
    page = visitor.page
    generate(visitor, "piano and bass, 4 bars")
    midi = visitor.midi()
    page.get_by_role("button", name="Make MusicXML").click()
    parts = ET.fromstring(visitor.download("Download .musicxml")).findall("part")
    assert len(parts) == len(Score.from_midi(midi).tracks)
    assert b'"seed"' in visitor.download("Download .json")
    assert visitor.download("one .mid per track")[:2] == b"PK"
    wav = page.get_by_role("button", name=re.compile("WAV"))
    if not wav.is_enabled():
        assert "needs fluidsynth" in wav.inner_text()
        return
    wav.click()
    with wave.open(io.BytesIO(visitor.download("Download .wav"))) as sound:
        seconds = sound.getnframes() / sound.getframerate()
        assert any(sound.readframes(sound.getnframes()))
    music = Score.from_midi(midi).to("second").end()
    assert music <= seconds < music + 15


def test_without_a_soundfont_the_page_says_so(visit, lame_composer_url):
    page = visit(url=lame_composer_url).page
    wav = page.get_by_role("button", name="WAV needs fluidsynth and a soundfont.")
    assert not wav.is_enabled()
    assert "The .mid download and browser playback still work." in wav.inner_text()


def test_a_visitor_in_the_queue_sees_the_place(visit):
    """While one writes, the other is told to wait, and gets a piece after the first has stopped."""
    first, second = visit(), visit()
    first.page.locator("#prompt textarea").fill("piano, 64 bars")
    first.set_number("num_outputs", 1)
    first.page.locator("#generate").click()
    first.page.wait_for_function("document.querySelector('#status').innerText.includes('bar')")
    second.page.locator("#prompt textarea").fill("piano, 4 bars")
    second.set_number("num_outputs", 1)
    second.page.locator("#generate").click()
    second.page.wait_for_function("/queue/i.test(document.querySelector('#status').innerText)")
    second.shot("composer-queue")
    first.page.locator("#stop").click()
    first.wait_done()
    second.wait_done()
    assert second.drawn()[0] > 0
    assert first.page.locator("#status").get_attribute("aria-live") == "polite"


def test_a_full_queue_is_told_in_a_sentence(visit, composer_url):
    """The seventeenth that waits is refused, and is served when there is room again."""
    from gradio_client import Client

    visitor = visit()
    crowd = Client(composer_url, verbose=False)
    jobs = [crowd.submit("piano", {"bars": 64}, api_name="/generate") for _ in range(19)]
    waiting = time.monotonic() + 60
    while time.monotonic() < waiting and sum(job.done() for job in jobs) < 2:  # one works, sixteen wait, two go away
        time.sleep(0.1)
    visitor.page.locator("#generate").click()
    assert "16 people are waiting; please retry in a minute." in visitor.told()
    for job in jobs:
        if not job.done():
            job.cancel()
    crowd.close()
    visitor.faults = [fault for fault in visitor.faults if "429" not in fault]  # the browser's own note of the refusal
    generate(visitor, "piano, 4 bars")
    assert visitor.drawn()[0] > 0


def test_keyboard_alone(visit):
    """Tab, Enter and the arrow keys write a piece and take it home."""
    visitor = visit()
    page = visitor.page

    def tab_to(selector: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement && document.activeElement.matches(s)", selector):
                assert page.evaluate(FOCUS_SHOWS), "the focus can be seen"
                return
        pytest.fail(f"no way to {selector} by Tab")

    tab_to("#prompt textarea")
    page.keyboard.type("piano, 4 bars")
    tab_to("#generate, #generate button")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#status').innerText.includes('bar')")
    visitor.wait_done()
    tab_to("#downloads a")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert notes_of(download.value.path().read_bytes())


def test_two_visitors_do_not_see_each_other(visit):
    first, second = visit(), visit()
    generate(first, "piano, 4 bars")
    assert first.drawn()[0] > 0
    second.page.get_by_role("button", name="Undo").click()
    second.page.wait_for_function("document.querySelector('#status').innerText.includes('Nothing made yet')")
    assert second.drawn() == []
    assert second.page.locator("#history input").input_value() == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overlaps_or_is_wider_than_the_screen(visit, make_score, width, scheme):
    """Both tabs on a phone and on a desk; nothing lies on anything else."""
    visitor = visit(width, scheme)
    visitor.open_file(make_score(5, num_bars=5, programs=(0, 33, -1), notes_per_bar=4).dumps_midi())
    visitor.version("opened a file")
    for tab, name in (("Compare", "compare"), ("Compose", "composer")):
        visitor.page.get_by_role("tab", name=tab).click()
        visitor.check_layout()
        visitor.shot(f"{name}-tab-{width}-{scheme}")


WATCH = """() => {
  window.seen = [];
  const status = document.querySelector('#status'), canvases = () => [...document.querySelectorAll('#roll canvas')];
  const note = () => seen.push([canvases().map(c => Number(c.dataset.notes || 0)), status.innerText]);
  const watched = { subtree: true, childList: true, characterData: true, attributeFilter: ['data-notes'] };
  for (const element of [status, document.querySelector('#roll')]) new MutationObserver(note).observe(element, watched);
}"""
LISTEN = """() => {
  window.heard = []; window.sounds = [];
  const { playNote } = core.Player.prototype, attack = Tone.PolySynth.prototype.triggerAttackRelease;
  core.Player.prototype.playNote = function (time, note) {
    heard.push({ start: note.startTime, time });
    return playNote.call(this, time, note);
  };
  Tone.PolySynth.prototype.triggerAttackRelease = function (hertz, seconds, ...rest) {
    sounds.push({ hertz, seconds });
    return attack.call(this, hertz, seconds, ...rest);
  };
}"""
FOCUS_SHOWS = """() => {
  const style = getComputedStyle(document.activeElement);
  return style.outlineStyle !== 'none' || style.boxShadow !== 'none';
}"""
