"""Bars written anew: everything outside the range is as it was."""

import pytest

from partimento.pipelines import MidiGenerator, rewrite_bars


@pytest.fixture(scope="module")
def generator():
    return MidiGenerator.from_pretrained("museformer-small", device="cpu")


@pytest.fixture(scope="module")
def piece(generator):
    return generator.generate(instruments=["piano", "bass", "drums"], bars=8, seed=4)[0]


def notes(generator, score, inside):
    """(program, onset, pitch, duration, velocity) of the notes whose bar (from 1) satisfies `inside`."""
    score = generator.processor.load(score)
    return {
        (-1 if track.is_drum else track.program, note.time, note.pitch, note.duration, note.velocity)
        for track in score.tracks
        for note in track.notes
        if inside(note.time // (4 * score.ticks_per_quarter) + 1)
    }


@pytest.mark.parametrize(("first", "last"), [(3, 4), (1, 2), (7, 8)])
def test_only_the_range_changes(generator, piece, first, last):
    done = rewrite_bars(generator, piece.score, first, last, candidates=2, seed=9)

    def outside(bar):
        return not first <= bar <= last

    assert notes(generator, done.piece.score, outside) == notes(generator, piece.score, outside)
    assert notes(generator, done.piece.score, lambda bar: not outside(bar)) != notes(
        generator, piece.score, lambda bar: not outside(bar)
    )
    assert done.piece.num_bars == 8
    assert done.piece.complete
    assert [tempo.qpm for tempo in done.piece.score.tempos] == [tempo.qpm for tempo in piece.score.tempos]
    generator.processor.validate(done.piece.ids)
    if last == 8:
        assert done.fits == [], "no bars follow: one candidate, nothing to compare"
    else:
        assert done.chosen == done.fits.index(min(done.fits))
        assert len(set(done.fits)) == 2


def test_the_new_bars_are_a_continuation_that_does_not_end(generator, piece):
    """What is written follows from the bars before the range; a piece that goes on is told its whole length."""
    body = generator.continue_midi(piece.score, bars=2, after_bar=2, total_bars=8, seed=1)[0]
    again = rewrite_bars(generator, piece.score, 3, 4, candidates=1, seed=1).piece
    inside = notes(generator, again.score, lambda bar: 3 <= bar <= 4)
    assert inside <= notes(generator, body.score, lambda bar: 3 <= bar <= 4)
    assert body.num_bars == 4
    assert body.complete
    assert body.conditions["bars"] == 8


def test_fit_is_the_likelihood_of_the_following_bars(generator, piece):
    """Computed once more from the whole sequence, without windows."""
    import torch

    done = rewrite_bars(generator, piece.score, 3, 4, candidates=1, look_ahead=2, seed=9)
    ids = torch.tensor([done.piece.ids])
    with torch.inference_mode():
        logits = generator.model(input_ids=ids).logits[0]
    bars = (ids[0] == generator.processor.bar_token_id).cumsum(0)
    behind = torch.nonzero((bars == 5) | (bars == 6))[:, 0]
    losses = torch.nn.functional.cross_entropy(logits[behind - 1], ids[0, behind], reduction="none")
    assert done.fits[0] == pytest.approx(float(losses.mean()), rel=1e-3)


def test_bars_that_are_not_there(generator, piece):
    with pytest.raises(ValueError, match="the piece has bars 1 to 8"):
        rewrite_bars(generator, piece.score, 8, 9)
    with pytest.raises(ValueError, match="after_bar=9"):
        generator.continue_midi(piece.score, after_bar=9)
