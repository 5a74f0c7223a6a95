"""Bar similarity: cases computed by hand, plain sets against the fast path, empty bars, tracks, metres."""

import math

import numpy as np
import pytest

from partimento.tokenization import MidiProcessor
from partimento.tokenization.grammar import Grammar
from partimento.training.bar_similarity import (
    SimilarityStatistics,
    bar_notes,
    bar_notes_of_ids,
    bar_similarities,
    measure_songs,
    programs_of_families,
    similarity_error,
)


@pytest.fixture(scope="module")
def processor() -> MidiProcessor:
    return MidiProcessor.from_preset("multitrack")


def song(processor, *bars: str, velocity: int = 99) -> list[int]:
    """Ids of bars of notes "onset:pitch:duration:program" (the last two may be left out: 12 and 0); drums are -1."""
    names = ["BOS_None"]
    for bar in bars:
        names.append("Bar_None")
        for note in bar.split():
            onset, pitch, duration, program = (list(map(int, note.split(":"))) + [12, 0][note.count(":") - 1 :])[:4]
            kind = "PitchDrum" if program == -1 else "Pitch"
            names += [f"Position_{onset}", f"Program_{program}", f"{kind}_{pitch}", f"Velocity_{velocity}"]
            names.append(f"Duration_{duration // 12}.{duration % 12}.12")
    return [processor.vocabulary.ids[name] for name in [*names, "EOS_None"]]


def curves(processor, *songs, max_lag=3, **options):
    return measure_songs((bar_notes_of_ids(ids, processor) for ids in songs), max_lag, **options)


A, B, C = "0:60 12:62 24:64", "0:60 12:62 24:65", "0:40"
NAN = math.nan


def test_pairs_by_hand(processor):
    # A and B share two of four notes; the last bar is A again.
    notes = bar_notes_of_ids(song(processor, A, B, C, A), processor)
    expected = [[0.5, 0, 1], [0, 0.5, NAN], [0, NAN, NAN], [NAN, NAN, NAN]]
    np.testing.assert_array_equal(bar_similarities(notes, 3), expected)
    assert [len(notes_of_bar) for notes_of_bar in notes.sets()] == [3, 3, 1, 3]


def test_pooled_and_per_song_by_hand(processor):
    long, short = song(processor, A, B, C, A), song(processor, A, A)
    statistics = curves(processor, long, short)
    # t = 1: (0.5 + 0 + 0 + 1) / 4 of all pairs; (1/6 + 1) / 2 of songs. t = 2: (0 + 0.5) / 2. t = 3: one pair.
    assert statistics.pooled().tolist() == [0.375, 0.25, 1.0]
    assert statistics.per_song() == pytest.approx([7 / 12, 0.25, 1.0], abs=1e-15)


def test_similarity_error_by_hand(processor):
    training = curves(processor, song(processor, A, B, C, A), song(processor, A, A)).pooled()
    generated = curves(processor, song(processor, A, A, A, C)).pooled()  # L_1 = 2/3, L_2 = 1/2, L_3 = 0
    expected = 100 * ((2 / 3 - 0.375) + 0.25 + 1) / 3
    assert similarity_error(generated, training) == pytest.approx(expected, abs=1e-12)
    assert similarity_error(training, generated) == similarity_error(generated, training)


def test_error_of_a_set_against_itself_is_zero(processor):
    grammar, rng = Grammar(processor), np.random.default_rng(0)
    songs = [grammar.random_sequence(rng, num_bars=12, notes_per_bar=20) for _ in range(8)]
    songs += [song(processor, A, B, *[C, A] * 25), song(processor, *[A, B, B] * 17)]
    statistics, backwards = curves(processor, *songs, max_lag=40), curves(processor, *songs[::-1], max_lag=40)
    for method in (SimilarityStatistics.pooled, SimilarityStatistics.per_song):
        assert 0 < method(statistics)[0] < 1
        assert similarity_error(method(statistics), method(statistics)) == 0
        assert similarity_error(method(statistics), method(backwards)) == 0


def test_empty_bars(processor):
    ids = song(processor, A, "", "", A, "")  # t = 1: A-, --, -A, A-; t = 2: A-, -A, --; t = 3: AA, --
    assert curves(processor, ids).pooled().tolist() == [0, 0, 1]
    assert curves(processor, ids).counts.tolist() == [[3, 2, 1]]
    assert curves(processor, ids, empty_pairs="zero").pooled() == pytest.approx([0, 0, 1 / 2])
    assert curves(processor, ids, empty_pairs="one").pooled() == pytest.approx([1 / 4, 1 / 3, 1])
    with pytest.raises(ValueError, match="exclude, zero, one"):
        curves(processor, ids, empty_pairs="two")


def test_a_song_without_notes_or_with_one_bar_counts_nothing(processor):
    silent, single = song(processor, "", "", ""), song(processor, A)
    for ids in (silent, single, [processor.bos_token_id]):
        statistics = curves(processor, ids, max_lag=2)
        assert statistics.counts.tolist() == [[0, 0]]
        assert np.isnan(statistics.pooled()).all()
        assert np.isnan(statistics.per_song()).all()
    assert curves(processor, silent, max_lag=2, empty_pairs="one").pooled().tolist() == [1, 1]
    both = curves(processor, silent, song(processor, A, A, A), max_lag=2)
    assert both.per_song().tolist() == [1, 1]


def test_what_makes_a_note(processor):
    first = "0:60 12:62"
    same, changed = song(processor, first, first), {}
    assert curves(processor, same, max_lag=1).pooled() == [1]
    for what, bar in {"pitch": "0:60 12:63", "onset": "0:60 13:62", "duration": "0:60 12:62:11"}.items():
        changed[what] = curves(processor, song(processor, first, bar), max_lag=1).pooled()[0]
    assert changed == dict.fromkeys(("pitch", "onset", "duration"), 1 / 3)
    other = song(processor, first, velocity=63)
    louder = [*same[: len(song(processor, first)) - 1], *other[1:]]
    assert curves(processor, louder, max_lag=1).pooled() == [1]


def test_transposing_one_bar_changes_it_and_transposing_all_does_not(processor):
    plain = song(processor, A, A, B)
    body = plain.index(processor.bar_token_id, plain.index(processor.bar_token_id) + 1)
    one_bar = [*processor.transpose(plain[:body], 5), *plain[body:]]
    assert curves(processor, plain, max_lag=2).pooled().tolist() == [0.75, 0.5]
    assert curves(processor, one_bar, max_lag=2).pooled().tolist() == [0.25, 0]  # 65 67 69 in no other bar
    assert curves(processor, processor.transpose(plain, 5), max_lag=2).pooled().tolist() == [0.75, 0.5]


def test_several_tracks(processor):
    ids = song(processor, "0:60:12:0 0:60:12:80 6:35:12:-1", "0:60:12:80 3:70:12:0 6:35:12:-1", "0:60:12:33")
    piece = processor.decode_piece(ids)

    def similarity(programs=None, with_program=True):
        return bar_similarities(bar_notes(piece, programs, with_program), 2)[0].tolist()

    assert similarity() == [2 / 4, 0]
    assert similarity(with_program=False) == [2 / 3, 1 / 2]  # the doubled 60 is one note
    assert similarity({0}) == [0, 0]
    assert similarity({-1}) == [1, 0]
    assert similarity(programs_of_families("synth-lead")) == [1, 0]
    assert similarity(programs_of_families("piano", "bass")) == [0, 0]
    assert similarity(programs_of_families("piano", "bass"), with_program=False) == [0, 1]
    assert np.isnan(similarity(programs_of_families("organ"))).all()
    with pytest.raises(ValueError, match=r"\['lead'\] are unknown; choose from piano"):
        programs_of_families("lead")


def test_ids_and_piece_agree_and_ids_know_more_empty_bars(processor):
    ids = song(processor, A, B, "")
    piece, of_ids = bar_notes(processor.decode_piece(ids)), bar_notes_of_ids(ids, processor)
    assert (piece.num_bars, of_ids.num_bars) == (2, 3)
    assert piece.sets() == of_ids.sets()[:2]
    padded = [processor.pad_token_id, *ids, processor.bar_token_id]
    assert bar_notes_of_ids(padded, processor).num_bars == 3
    with pytest.raises(ValueError, match="the last note is in bar 2"):
        bar_notes(processor.decode_piece(ids), num_bars=1)


def test_bars_of_other_metres_compare_by_musical_time():
    processor = MidiProcessor.from_preset("metres")
    names = "Bar_None TimeSig_4/4 Position_6 Program_0 Pitch_60 Velocity_99 Duration_1.0.12 "
    names += "Bar_None TimeSig_6/8 Position_12 Pitch_60 Velocity_99 Duration_2.0.12"  # the same in eighths
    ids = [processor.vocabulary.ids[name] for name in names.split()]
    assert curves(processor, ids, max_lag=1).pooled() == [1]


def test_fast_path_equals_plain_sets(processor):
    grammar, rng = Grammar(processor), np.random.default_rng(1)
    chorus = [f"{6 * i}:{50 + i}" for i in range(8)]
    songs = [grammar.random_sequence(rng, num_bars=9, notes_per_bar=30) for _ in range(4)]
    for _ in range(4):
        songs.append(song(processor, *(" ".join(n for n in chorus if rng.random() < 0.6) for _ in range(50))))
    for ids in songs:
        notes = bar_notes_of_ids(ids, processor)
        sets, fast = notes.sets(), bar_similarities(notes, 40)
        assert fast.shape == (len(sets), 40)
        for i in range(len(sets)):
            for t in range(1, 41):
                union = sets[i] | sets[i + t] if i + t < len(sets) else set()
                if union:
                    assert fast[i, t - 1] == len(sets[i] & sets[i + t]) / len(union)
                else:
                    assert math.isnan(fast[i, t - 1])


def test_curves_that_cannot_be_compared(processor):
    long, short = (curves(processor, song(processor, *[A] * n), max_lag=4).pooled() for n in (5, 3))
    with pytest.raises(ValueError, match="generated songs is 3 bars apart: choose a smaller max_lag"):
        similarity_error(short, long)
    with pytest.raises(ValueError, match="reference songs is 3 bars"):
        similarity_error(long, short)
    with pytest.raises(ValueError, match="same lags"):
        similarity_error(long, short[:2])
    assert similarity_error(long[:2], short[:2]) == 0
    with pytest.raises(ValueError, match="reference songs is 1 bars"):
        similarity_error(long, measure_songs([], 4).pooled())
    with pytest.raises(ValueError, match="max_lag=0"):
        measure_songs([bar_notes_of_ids(song(processor, A), processor)], 0)
