"""Generation end to end with the embedded checkpoint: what is asked for, what is refused, stopping, continuing."""

import inspect
import threading

import pytest
import torch
from symusic import Score, Tempo

from partimento.pipelines import MidiGenerator
from partimento.pipelines.generation import resolve_model
from partimento.pipelines.instruments import EnterInstruments, choose_programs, parts_to_hear
from partimento.tokenization import MidiError, MidiProcessor


@pytest.fixture(scope="module")
def generator():
    return MidiGenerator.from_pretrained("museformer-small", device="cpu")


def notes_of(score):
    return sorted(
        (-1 if track.is_drum else track.program, *(int(x) for x in note))
        for track in score.tracks
        for note in zip(*(track.notes.numpy()[name] for name in ("time", "pitch", "duration", "velocity")))
    )


def until(note, end):
    program, onset, pitch, duration, velocity = note
    return program, onset, pitch, min(duration, end - onset), velocity


@pytest.mark.parametrize("weights", ["half", "int8"])
def test_rounded_weights_keep_the_wishes(generator, weights):
    rounded = MidiGenerator(generator.model, generator.processor, weights=weights)
    wishes = {"genre": "jazz", "instruments": ["piano", "bass"], "bars": 4, "tempo": 120}
    for piece in (rounded.generate(**wishes, seed=3)[0], rounded.generate(**wishes, seed=3, num_outputs=2)[1]):
        assert piece.num_bars == 4
        assert {-1 if t.is_drum else t.program for t in piece.score.tracks} <= {*range(8), *range(32, 40)}
    assert rounded.generate(**wishes, seed=3)[0].ids == rounded.generate(**wishes, seed=3)[0].ids


def test_rounded_weights_are_refused_where_they_do_nothing():
    with pytest.raises(ValueError, match="recurrent"):
        MidiGenerator.from_pretrained("recurrent-lstm-small", device="cpu", weights="int8")
    with pytest.raises(ValueError, match="int4"):
        MidiGenerator.from_pretrained("museformer-small", device="cpu", weights="int4")


def test_bars_instruments_and_tempo_hold(generator):
    pieces = generator.generate(
        genre="jazz", instruments=["piano", "bass", "drums"], bars=5, tempo=120, num_outputs=3, seed=1, top_k=8
    )
    allowed = {-1, *range(8), *range(32, 40)}
    for piece in pieces:
        assert piece.num_bars == 5
        assert piece.complete
        generator.processor.validate(piece.ids)
        programs = {(-1 if track.is_drum else track.program) for track in piece.score.tracks}
        assert programs <= allowed
        assert [tempo.qpm for tempo in piece.score.tempos] == [120], "not the nearest that the tokens know"
        assert piece.measured()["tempo"] == 120


def test_an_instrument_the_model_would_leave_out_enters_in_time(generator):
    families = {"piano": 0, "bass": 32, "organ": 16, "drums": -1}
    for piece in generator.generate(instruments=list(families), bars=8, num_outputs=2, seed=0):
        first_heard = {}
        for program, onset, *_ in sorted(notes_of(piece.score), key=lambda note: note[1]):
            first_heard.setdefault(program - program % 8 if program >= 0 else -1, onset)
        assert set(first_heard) == set(families.values())
        assert max(first_heard.values()) < 4 * 48


def test_each_named_instrument_of_a_family_is_heard(generator):
    for piece in generator.generate(instruments=["violin", "viola", "cello"], bars=8, num_outputs=2, seed=4):
        assert {track.program for track in piece.score.tracks} == {40, 41, 42}


def test_parts_to_hear():
    chosen = {"piano": (0, 4), "strings": (40, 42), "bass": (33,), "drums": (-1,)}
    asked = ["Violin", "cello", "piano", "Electric Piano 1", "bass", "drums"]
    assert parts_to_hear(asked, chosen) == [(4,), (0,), (40,), (42,), (33,), (-1,)]
    assert parts_to_hear([], {}) == []


def test_same_seed_same_notes_and_another_seed_others(generator):
    first, again, other = (generator.generate(bars=2, seed=seed)[0].ids for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_request_does_not_move_the_random_numbers_of_its_caller(generator):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generator.generate(bars=1, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_saved_file_holds_the_same_notes(generator, tmp_path):
    piece = generator.generate(bars=3, seed=2)[0]
    path = piece.save(tmp_path / "new folder" / "piece.mid")
    read = generator.processor.load(path)
    assert notes_of(read) == notes_of(generator.processor.load(piece.score))
    picture = tmp_path / "roll.png"
    piece.piano_roll(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_every_bar_is_reported_once_and_in_order(generator):
    seen = {0: [], 1: []}
    generator.generate(bars=4, num_outputs=2, seed=0, on_bar=lambda row, bar, total: seen[row].append((bar, total)))
    assert seen == {row: [(bar, 4) for bar in range(1, 5)] for row in (0, 1)}


def test_finished_bars_are_handed_over_while_writing(generator):
    seen = {0: [], 1: []}
    pieces = generator.generate(
        bars=4, num_outputs=2, seed=0, on_music=lambda row, bars, ids: seen[row].append((bars, ids))
    )
    for row, piece in enumerate(pieces):
        assert [bars for bars, _ in seen[row]] == [1, 2, 3]
        _, body = generator.processor.split_prefix(piece.ids)
        for bars, ids in seen[row]:
            assert ids == body[: len(ids)]
            assert generator.processor.count_bars(ids) == bars


def test_stop_keeps_the_finished_bars(generator):
    stop = threading.Event()

    def on_bar(row, bar, total):
        if bar == 4:
            stop.set()

    piece = generator.generate(bars=30, seed=0, on_bar=on_bar, stop=stop)[0]
    assert piece.num_bars == 3
    assert not piece.complete
    generator.processor.validate(piece.ids)
    assert piece.score.note_num() > 0


def test_continuing_keeps_written_tempos(generator, make_score, tmp_path):
    """The tokens know 120 as 123.9 and 90.5 as 91.5; a host that plays along would drift away."""
    score = make_score(3, num_bars=4)
    score.tempos = [Tempo(0, 120), Tempo(2 * 4 * score.ticks_per_quarter, 90.5)]
    path = generator.continue_midi(score, bars=2, seed=1)[0].save(tmp_path / "longer.mid")
    written = Score(path).to("quarter").tempos
    assert [(tempo.time, round(tempo.qpm, 2)) for tempo in written[:2]] == [(0, 120), (8, 90.5)]


def test_continuing_keeps_the_primer(generator, tmp_path):
    primer = generator.generate(instruments=["piano", "drums"], bars=3, seed=6)[0]
    path = primer.save(tmp_path / "primer.mid")
    before = notes_of(generator.processor.load(path))
    primer_bars = generator.processor.count_bars(generator.processor.encode(path, add_special_tokens=False))
    for context_bars in (64, 1):
        piece = generator.continue_midi(path, bars=2, seed=1, context_bars=context_bars)[0]
        assert piece.num_bars == primer_bars + 2
        after = notes_of(generator.processor.load(piece.score))
        end = primer_bars * 48
        # A note that sounds into the new bars ends there where its pitch is struck again; nothing else may change.
        assert [until(note, end) for note in after if note[1] < end] == [until(note, end) for note in before]
        assert {note[0] for note in after} <= {note[0] for note in before}


def test_greedy_needs_no_seed(generator):
    assert generator.generate(bars=1, temperature=0)[0].ids == generator.generate(bars=1, temperature=0)[0].ids


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"bars": 0}, "bars=0"),
        ({"bars": 500}, "256"),
        ({"num_outputs": 0}, "num_outputs=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"genre": "jaz"}, "Jazz"),
        ({"instruments": ["banjoo"]}, "banjoo"),
        ({"key": "H-major"}, "H-major"),
        ({"tempo": -3}, "tempo=-3"),
        ({"tempo": 400}, "24 to 200"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_refusal_names_the_value_and_what_is_possible(generator, request_, says):
    with pytest.raises(ValueError, match=says):
        generator.generate(**request_)


def test_a_primer_that_is_no_midi_is_refused(generator, tmp_path):
    path = tmp_path / "text.mid"
    path.write_text("hello")
    with pytest.raises(MidiError, match=r"text\.mid"):
        generator.continue_midi(path)


def test_bars_wait_for_the_asked_instruments(generator):
    """A sampler that would end every bar at once still lets everyone in."""
    processor = generator.processor
    enter = EnterInstruments(processor, [range(8), [-1]], deadline=2)
    bar, position = processor.bar_token_id, processor.position_token_start
    scores = torch.zeros(1, len(processor.tokenizer))
    assert enter(torch.tensor([[1, bar]]), scores).isfinite().all(), "not due yet"
    due = enter(torch.tensor([[1, bar, bar]]), scores)
    tokens = processor.vocabulary.ids
    assert due.isfinite().nonzero()[:, 1].tolist() == sorted(tokens[f"Program_{p}"] for p in (*range(8), -1))
    scores[:, [tokens[f"Program_{p}"] for p in range(-1, 128)]] = float("-inf")  # as the grammar has it after a bar
    due = enter(torch.tensor([[1, bar, bar]]), scores)
    assert not due[0, [bar, processor.eos_token_id]].isfinite().any()
    assert due[0, position].isfinite()


def programs_by_family(score):
    families = {}
    for track in score.tracks:
        if len(track.notes):
            families.setdefault(-1 if track.is_drum else track.program // 8, set()).add(track.program)
    return families


def test_a_family_plays_with_the_usual_program_of_the_genre(generator):
    for genre, guitar in (("metal", 30), ("jazz", 26)):
        piece = generator.generate(genre=genre, instruments=["guitar", "drums"], bars=4, seed=2)[0]
        assert programs_by_family(piece.score) == {3: {guitar}, -1: {0}}


def test_a_named_program_plays_and_nothing_else_of_its_family(generator):
    piece = generator.generate(genre="metal", instruments=["Nylon Guitar", "bass"], bars=4, seed=2)[0]
    assert programs_by_family(piece.score)[3] == {24}
    assert piece.conditions["instruments"] == ["guitar", "bass"]


def test_what_is_refused_does_not_sound(generator):
    piece = generator.generate(without=["drums", "piano", "Fingered Bass"], bars=6, seed=4)[0]
    heard = {(-1 if track.is_drum else track.program) for track in piece.score.tracks}
    assert heard
    assert not heard & {-1, *range(8), 33}


def test_an_asked_instrument_is_not_silent_for_long(generator):
    for piece in generator.generate(instruments=["guitar", "organ", "drums"], bars=12, num_outputs=2, seed=5):
        for track in piece.score.tracks:
            onsets = sorted({note.time // 48 for note in track.notes})
            assert onsets[0] <= 3
            assert max(later - earlier for earlier, later in zip(onsets, [*onsets[1:], 12])) <= 3


def test_a_silent_part_comes_back(generator):
    processor = generator.processor
    ids, bar = processor.vocabulary.ids, processor.bar_token_id
    enter = EnterInstruments(processor, [[0], [32]], deadline=1, patience=2)
    scores = torch.zeros(1, len(processor.tokenizer))

    def note(program):
        names = ("Position_0", f"Program_{program}", "Pitch_60", "Velocity_63", "Duration_1.0.12")
        return [ids[name] for name in names if name in ids]

    row = [1, bar, *note(0), *note(32), bar, *note(0), bar, *note(0)]
    assert enter(torch.tensor([row]), scores).isfinite().all(), "two bars of rest are allowed"
    row += [bar]
    due = enter(torch.tensor([row]), scores)  # step by step
    assert due.isfinite().nonzero()[:, 1].tolist() == [ids["Program_32"]]
    again = EnterInstruments(processor, [[0], [32]], deadline=1, patience=2)(torch.tensor([row]), scores)  # at once
    assert torch.equal(due, again)


def test_choice_of_programs():
    assert choose_programs(["organ"], genre="Blues") == {"organ": (16,)}, "not the harmonica, though more usual there"
    assert choose_programs(["strings", "drums"]) == {"strings": (40,), "drums": (-1,)}
    assert choose_programs(["violin", "Cello"]) == {"strings": (40, 42)}
    assert choose_programs(["guitar", "nylon-guitar"]) == {"guitar": (24,)}
    assert choose_programs(["guitar"], present=[25]) == {"guitar": (25,)}
    assert choose_programs(["bass"], without=["Acoustic Bass"]) == {"bass": (33,)}
    assert choose_programs(["bass"], one_program=False) == {"bass": tuple(range(32, 40))}
    with pytest.raises(ValueError, match="contradict"):
        choose_programs(["bass"], without=["bass"])
    with pytest.raises(ValueError, match="Banjo"):
        choose_programs(["banjoo"])


def test_a_continuation_keeps_the_programs_of_its_primer(generator):
    primer = generator.generate(instruments=["Steel Guitar", "drums"], bars=2, seed=1)[0]
    piece = generator.continue_midi(primer.score, bars=3, instruments=["guitar"], genre="jazz", seed=1)[0]
    assert programs_by_family(piece.score)[3] == {25}


def test_a_long_primer_keeps_its_bar_numbers(generator, monkeypatch):
    primer = generator.processor.encode(generator.generate(instruments=["piano"], bars=4, seed=1)[0].score)
    seen = {}
    forward = type(generator.model).forward

    def spy(self, *args, bar_offset=None, **kwargs):
        seen.setdefault("offset", None if bar_offset is None else bar_offset.tolist())
        return forward(self, *args, bar_offset=bar_offset, **kwargs)

    spy.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(type(generator.model), "forward", spy)
    score = generator.processor.decode(primer)
    generator.continue_midi(score, bars=1, context_bars=1, seed=0)
    assert seen["offset"] == [generator.processor.count_bars(generator.processor.encode(score)) - 1]


def test_checkpoint_decides_what_is_not_said(generator):
    stored = generator.model.generation_config
    left = generator._sampling(1, 0, *[None] * 7)
    assert (left.top_p, left.temperature) == (stored.top_p, stored.temperature)
    assert generator._sampling(1, 0, 0.5, 3, 0.7, *[None] * 4).top_k == 3


def test_model_names(tmp_path):
    assert resolve_model("org/museformer-lmd") == "org/museformer-lmd"
    with pytest.raises(ValueError, match=r"no config\.json"):
        resolve_model(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        resolve_model(tmp_path / "absent.mid")
    with pytest.raises(ValueError, match="not an embedded checkpoint"):
        resolve_model("no-such-model")


def test_model_and_tokenizer_must_belong_together(generator):
    with pytest.raises(ValueError, match="do not belong together"):
        MidiGenerator(generator.model, MidiProcessor.from_preset("multitrack"), name="mixed")


def test_written_midi_suits_a_sequencer(generator, tmp_path):
    path = generator.generate(instruments=["piano", "drums"], tempo=120, bars=2, seed=0)[0].save(tmp_path / "a.mid")
    score = Score(path)
    assert score.ticks_per_quarter >= 96, "sequencers expect a fine grid"
    assert len(score.time_signatures) == 1
    assert len(score.tempos) >= 1
    assert all(track.name for track in score.tracks)
