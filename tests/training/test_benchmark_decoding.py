"""The music of the decoding benchmark."""

import torch

from partimento.training.benchmark_decoding import FollowSong, stretches

BOS, BAR = 1, 3


def test_stretches_are_different_bars_of_the_song_behind_bos():
    song = [BOS, 40, *[token for bar in range(20) for token in (BAR, 100 + bar, 100 + bar)]]
    rows = stretches(song, BOS, BAR, number=4, length=8).tolist()
    for row in rows:
        assert row[:2] == [BOS, BAR]
        assert any(song[i : i + 7] == row[1:] for i in range(len(song)))
    assert len({tuple(row) for row in rows}) == 4
    assert rows[0][2] == 100, "from the first bar, without the conditions before it"


def test_each_row_follows_its_own_song():
    songs = torch.tensor([[5, 6, 7], [5, 2, 4]])
    scores = FollowSong(songs)(songs[:, :1], torch.zeros(2, 9))
    assert scores.argmax(1).tolist() == [6, 2]
    assert torch.isfinite(scores).sum().item() == 2
