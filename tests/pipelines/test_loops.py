"""Loops from a tiny MusicVAE with random weights: choice of the window, walks, determinism, MIDI."""

import numpy as np
import pytest
import torch
from symusic import Note, Score, Tempo, TimeSignature, Track

from partimento.pipelines import LatentInfo, LoopGenerator, join_loops
from partimento.tokenization import (
    EmptyMidiError,
    MissingTrackError,
    MusicVAEProcessor,
    NotMidiError,
    TimeSignatureError,
    WindowError,
)
from partimento.tokenization.melody_attributes import ATTRIBUTES


@pytest.fixture(scope="module")
def generator(musicvae_folder):
    return LoopGenerator.from_pretrained(musicvae_folder)


def piece(*tracks, tempo=96.0, signature=(4, 4)):
    """A score of (name, program, [(quarter, length, pitch)]); program -1 are drums."""
    score = Score(480)
    score.tempos.append(Tempo(0, tempo))
    score.time_signatures.append(TimeSignature(0, *signature))
    for name, program, rows in tracks:
        track = Track(name=name, program=max(program, 0), is_drum=program < 0)
        for start, length, pitch in rows:
            track.notes.append(Note(int(start * 480), int(length * 480), pitch, 80))
        score.tracks.append(track)
    return score


def line(first, num_bars, pitch):
    """Quarters from bar `first` (from 0) on."""
    return [(4 * first + i, 1, pitch + i % 5) for i in range(4 * num_bars)]


def test_first_usable_window_is_chosen_and_named(generator):
    loop = generator.read(piece(("", 73, [(0, 1, 60), *line(3, 4, 72)])))
    assert loop.remarks[0] == "bars 3-4 of 7, Flute"  # bar 3 is silent, bar 4 has four onsets
    assert loop.tempo == 96
    assert (loop.grid["melody"] >= 2).sum() == 4
    sparse = generator.read(piece(("", 73, [(4, 1, 60), (5, 1, 60), (16, 1, 60)])))
    assert sparse.remarks[0].startswith("bars 1-2 of 5")  # nowhere three onsets: the most


def test_explicit_windows_may_be_silent_or_padded(generator):
    score = piece(("", 73, [*line(0, 2, 60), *line(5, 2, 72)]))
    silent = generator.read(score, bar=3)
    assert not silent.ids.any()
    assert "the window is silent" in silent.remarks
    last = generator.read(score, bar=7)
    assert last.remarks[0] == "bar 7 of 7, 1 of rest, Flute"
    assert (last.grid["melody"][:16] >= 2).sum() == 4
    assert not (last.grid["melody"][16:] >= 2).any()
    with pytest.raises(WindowError, match="choose bar 1 to 7, not 8"):
        generator.read(score, bar=8)


def test_choice_of_the_track(generator):
    bass, flute, lead = ("", 33, line(0, 8, 40)), ("", 73, line(0, 2, 72)), ("Lead vocal", 33, line(0, 2, 60))
    assert "track 2 Flute" in generator.read(piece(bass, flute)).remarks[0]
    assert "track 3 Lead vocal" in generator.read(piece(bass, flute, lead)).remarks[0]
    assert "Fingered Bass" in generator.read(piece(bass)).remarks[0]
    by_number, by_name = (generator.read(piece(bass, flute), track=track) for track in (1, "bass"))
    assert by_number.ids.tolist() == by_name.ids.tolist()
    assert generator.read(piece(bass, flute), track="all").ids[0] == 2 + 72 - 21
    with pytest.raises(MissingTrackError, match=r"'oboe'\. Choose among: 1 Fingered Bass; 2 Flute"):
        generator.read(piece(bass, flute), track="oboe")


def test_what_is_left_out_is_said(generator):
    chords = [(start, 1, pitch) for start in range(4) for pitch in (60, 64, 67)]
    assert any("8 notes" in remark for remark in generator.read(piece(("", 0, chords))).remarks)


@pytest.mark.parametrize(
    ("score", "error", "says"),
    [
        (piece(("", 0, [])), EmptyMidiError, "contains no notes"),
        (piece(("", 0, line(0, 2, 60)), signature=(3, 4)), TimeSignatureError, "only 3/4.*--any-metre"),
        (piece(("", -1, line(0, 2, 36))), MissingTrackError, "only drums"),
        (b"RIFFxxxx", NotMidiError, "is not MIDI"),
    ],
)
def test_each_failure_has_its_message(generator, score, error, says):
    with pytest.raises(error, match=says):
        generator.read(score)


def test_ends_of_a_path_are_the_reconstructions(generator):
    first, second = generator.read(piece(("", 0, line(0, 2, 60)))), generator.read(piece(("", 0, line(0, 2, 75))))
    assert not torch.equal(first.z, second.z)
    for method in ("linear", "slerp"):
        path = generator.interpolate(first, second, 5, method=method)
        assert len(path) == 5
        for end, source in ((path[0], first), (path[-1], second)):
            assert torch.equal(end.z, source.z)
            assert end.ids.tolist() == generator.reconstruct(source).ids.tolist()
        assert all(loop.tempo == 96 for loop in path)
    assert len({tuple(loop.ids) for loop in path}) > 1
    for loop in generator.interpolate(first, first, 3, method="slerp"):
        assert torch.equal(loop.z, first.z)


def test_lattice_has_the_corners(generator):
    corners = generator.sample(4, seed=5, temperature=0)
    lattice = generator.interpolate_grid(corners, 3, 4)
    assert [len(row) for row in lattice] == [4, 4, 4]
    for found, corner in zip((lattice[0][0], lattice[0][-1], lattice[-1][0], lattice[-1][-1]), corners):
        assert found.ids.tolist() == corner.ids.tolist()


def test_same_seed_same_notes(generator):
    def notes(loops):
        return [loop.ids.tolist() for loop in loops]

    def drawn(seed):
        return generator.sample(3, temperature=1.0, seed=seed)

    assert notes(drawn(4)) == notes(drawn(4)) != notes(drawn(5))
    source = drawn(4)[0]
    varied = generator.vary(source, 3, similarity=0.5, seed=1)
    assert notes(varied) == notes(generator.vary(source, 3, similarity=0.5, seed=1))
    assert notes(varied) != notes(generator.vary(source, 3, similarity=0.5, seed=2))
    assert {loop.seed for loop in varied} == {1}
    again = generator.sample(1, seed=None)[0]
    assert notes(generator.sample(1, seed=again.seed)) == notes([again])


def test_similarity_one_repeats_the_reconstruction(generator):
    source = generator.sample(1, seed=0)[0]
    for loop in generator.vary(source, 2, similarity=1.0):
        torch.testing.assert_close(loop.z, source.z)
    near, far = (generator.vary(source, 64, similarity=s, seed=0) for s in (0.95, 0.1))
    distances = [torch.stack([loop.z - source.z for loop in loops]).norm(dim=1).mean() for loops in (near, far)]
    assert distances[0] < distances[1]


def test_attributes_move_along_their_vectors(generator):
    source = generator.sample(1, seed=2)[0]
    assert generator.attributes == tuple(sorted(ATTRIBUTES))
    moved = generator.apply_attributes(source, {"note_density": 1.5, "c_diatonic": -0.5})
    expected = source.z.clone()
    expected[list(ATTRIBUTES).index("note_density")] += 1.5
    expected[list(ATTRIBUTES).index("c_diatonic")] -= 0.5
    torch.testing.assert_close(moved.z, expected)
    assert moved.attributes.keys() == ATTRIBUTES.keys()
    with pytest.raises(ValueError, match="'swing' is unknown; this model has average_interval"):
        generator.apply_attribute(source, "swing", 1.0)


def test_latent_facts_and_sliders(generator):
    info = generator.latent
    assert isinstance(info, LatentInfo)
    z = torch.randn(5, 8)
    wanted = info.coordinates(z)
    wanted[:, 1] = 2.0
    moved = info.with_coordinates(z, wanted)
    torch.testing.assert_close(info.coordinates(moved), wanted)
    step = moved - z  # nothing but the second direction
    torch.testing.assert_close(step, (step @ info.directions[1])[:, None] * info.directions[1])
    torch.testing.assert_close(info.with_coordinates(z, info.coordinates(z)), z)


def test_joined_loops_play_one_after_another(generator):
    rings = generator.read(piece(("", 0, [(0, 8, 60)])))
    waits = generator.read(piece(("", 0, [(2, 6, 64)])))
    joined = join_loops([rings, waits, rings])
    notes = joined.score.tracks[0].notes
    assert [(n.time, n.duration, n.pitch) for n in notes] == [
        (0, 16 * 240, 60), (16 * 240 + 960, 6 * 480, 64), (32 * 240, 16 * 240, 60),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="at least one"):
        join_loops([])


def test_midi_has_the_tempo_and_reads_back(generator, tmp_path):
    loop = generator.read(piece(("", 0, line(0, 2, 60))), tempo=140)
    path = loop.save(tmp_path / "new" / "loop.mid")
    assert Score(path).tempos[0].qpm == pytest.approx(140, abs=0.01)
    back = generator.read(path)
    assert back.ids.tolist() == loop.ids.tolist()
    assert torch.equal(generator.encode(path), loop.z)


@pytest.mark.parametrize("tracks", [("drums",), ("melody", "bass", "drums")])
def test_other_tracks(save_musicvae, tmp_path, tracks):
    generator = LoopGenerator.from_pretrained(save_musicvae(tmp_path, tracks))
    score = piece(("", 0, line(0, 2, 60)), ("", 33, line(0, 2, 40)), ("", -1, line(0, 2, 36)))
    loop = generator.read(score)
    assert tuple(loop.grid) == tracks
    assert all(np.count_nonzero(ids) >= 8 for ids in loop.grid.values())
    assert loop.attributes == {}
    assert len(join_loops(generator.vary(loop, 3, seed=0)).ids) == 3 * 32 * len(tracks)
    if tracks == ("drums",):
        with pytest.raises(ValueError, match="no track to choose"):
            generator.read(score, track=1)


def test_refusals(generator, tmp_path):
    for call, says in (
        (lambda: generator.decode(torch.zeros(9)), r"z must be \[8\]"),
        (lambda: generator.decode(torch.full((8,), float("nan"))), "not finite"),
        (lambda: generator.sample(0), "n=0 is out of range"),
        (lambda: generator.sample(1, temperature=9), "temperature=9"),
        (lambda: generator.sample(1, seed=-1), "seed=-1"),
        (lambda: generator.sample(1, tempo=1), "tempo=1"),
        (lambda: generator.vary(generator.sample()[0], similarity=2), "similarity=2"),
        (lambda: generator.encode(generator.sample()[0], bar=2), "a loop is a window already"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    MusicVAEProcessor(num_bars=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_bars is 2 in the model and 4 in the processor"):
        LoopGenerator(generator.model, MusicVAEProcessor.from_pretrained(tmp_path))


def test_any_window_of_the_sample_encodes(generator, sample_files):
    """Silence included: every bar of a few real pieces can be chosen."""
    read = 0
    for path in sample_files[::40]:
        try:
            song = generator.processor.read(path)
            generator.read(song.source)
        except (TimeSignatureError, MissingTrackError):
            continue
        for bar in range(1, len(song.bars) + 1, 7):
            loop = generator.read(path, bar=bar)
            assert torch.isfinite(loop.z).all()
            read += 1
    assert read > 10
