"""Grid corpora: preparation, uniqueness, reproducible batches, transposition; and MusicVAE through the trainer."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

from partimento.modeling import MusicVAEConfig, MusicVAEModel
from partimento.tokenization import MusicVAEProcessor
from partimento.tokenization.grid_songs import GridPart, GridSong, read_grid_song
from partimento.tokenization.melody_lines import Notes
from partimento.training import prepare_grids, train
from partimento.training.arguments import parse_arguments
from partimento.training.collapse_monitor import CollapseMonitor, latent_figures
from partimento.training.grid_arguments import GridArguments
from partimento.training.grid_data import GridCorpus, GridData, transposed
from partimento.training.grid_songs_store import StoredSong, read_stored, write_songs
from partimento.training.run_log import read_log
from partimento.training.schedules import exponential, make_value_schedule


def make_song(seed, num_bars=8, low=50, programs=(0, 33, -1)):
    rng = np.random.default_rng(seed)
    parts = []
    for program in programs:
        starts = np.sort(rng.choice(16 * num_bars, 6 * num_bars, replace=False))
        pitches = rng.choice([36, 38, 42], len(starts)) if program < 0 else rng.integers(low, low + 24, len(starts))
        parts.append(GridPart(program, f"part {program}", Notes(starts, starts + 1, pitches)))
    return GridSong(f"song-{seed}", 16 * num_bars, np.arange(num_bars) * 16, parts)


@pytest.fixture(scope="module")
def grid_corpus(tmp_path_factory):
    """Ten songs to train on, four to validate, of which one is a song of the training split again."""
    folder = tmp_path_factory.mktemp("grids")
    for split, seeds in (("train", range(10)), ("validation", (20, 21, 22, 3))):
        songs = [StoredSong(make_song(seed), {"md5": f"{split}-{i}"}) for i, seed in enumerate(seeds)]
        write_songs(folder, split, songs, rows_per_group=3)
    return folder


def make_data(folder, processor=None, **settings):
    settings = {"rows_per_batch": 8, "min_onsets": 0, **settings}
    processor = processor or MusicVAEProcessor()
    return GridData(GridArguments(str(folder), **settings), processor, seed=0, batches_per_update=1)


def test_store_round_trip(grid_corpus):
    for seed, stored in enumerate(read_stored(grid_corpus, "train")):
        song = make_song(seed)
        assert stored.metadata["md5"] == f"train-{seed}"
        np.testing.assert_array_equal(stored.song.bars, song.bars)
        for ours, theirs in zip(stored.song.parts, song.parts):
            assert (ours.program, ours.name) == (theirs.program, theirs.name)
            for a, b in zip(ours.notes, theirs.notes):
                np.testing.assert_array_equal(a, b)
    with pytest.raises(FileNotFoundError, match="no grids/test-"):
        list(read_stored(grid_corpus, "test"))


def test_windows_are_those_of_the_processor(grid_corpus):
    """Every window a MIDI of the song would give is in the corpus: one source for training and use."""
    trio = MusicVAEProcessor(("melody", "bass", "drums"), num_bars=4, monophony="track")
    corpus = GridCorpus.from_parquet(GridArguments(str(grid_corpus), min_onsets=0), "train", trio)
    expected = np.concatenate([trio.windows(make_song(seed)).ids for seed in range(10)])
    found = trio.join_tracks(list(corpus.windows.transpose(1, 0, 2)))
    assert len(found) == 50
    np.testing.assert_array_equal(found, expected)


def test_melody_models_read_every_pitched_track(grid_corpus):
    corpus = GridCorpus.from_parquet(GridArguments(str(grid_corpus), min_onsets=0), "train", MusicVAEProcessor())
    assert len(corpus) == 10 * 2 * 7
    assert corpus.windows.shape[1:] == (1, 32)


def test_duplicates_and_training_windows_are_left_out(grid_corpus, tmp_path):
    data = make_data(grid_corpus)
    assert data.validation.counts["in_training"] == 14
    assert 3 not in {int(name.split("-")[1]) for name in np.array(data.validation.names)[data.validation.songs]}
    write_songs(tmp_path, "train", [StoredSong(make_song(1), {"md5": "a"}), StoredSong(make_song(1), {"md5": "b"})])
    corpus = GridCorpus.from_parquet(GridArguments(str(tmp_path), min_onsets=0), "train", MusicVAEProcessor())
    assert (len(corpus), corpus.counts["duplicate"]) == (14, 14)
    assert set(corpus.songs) == {0}


def test_filters_name_their_reasons(grid_corpus):
    with pytest.raises(ValueError, match=r"no window of split train is left \(\{'few_onsets': 140"):
        GridCorpus.from_parquet(GridArguments(str(grid_corpus), min_onsets=33), "train", MusicVAEProcessor())


def test_a_song_with_forty_windows_gives_forty_and_a_cap_is_drawn_anew(tmp_path):
    song = StoredSong(make_song(0, num_bars=41, programs=(0,)), {"md5": "x"})
    other = StoredSong(make_song(1, num_bars=3, programs=(0,)), {"md5": "y"})
    for split in ("train", "validation"):
        write_songs(tmp_path, split, [song, other] if split == "train" else [StoredSong(make_song(9), {"md5": "z"})])
    data = make_data(tmp_path, rows_per_batch=1)
    assert (data.train.songs == 0).sum() == 40
    assert len(data.epoch_items(0)) == 42
    capped = make_data(tmp_path, rows_per_batch=1, windows_per_song=5)
    chosen = [set(capped.epoch_items(epoch).reshape(-1).tolist()) for epoch in range(3)]
    assert [len(items) for items in chosen] == [7, 7, 7]
    assert {40, 41} <= chosen[0]
    assert chosen[0] != chosen[1]
    assert chosen[0] == set(capped.epoch_items(0).reshape(-1).tolist())


def test_transposition_is_fresh_in_every_epoch(grid_corpus):
    data = make_data(grid_corpus, transpose=[-5, 5])
    items = np.arange(8)
    plain = data.train.windows[items, 0]
    shifts = []
    for epoch in (0, 1, 0):
        ids = data.batch(items, epoch).inputs["input_ids"].numpy()
        moved = [set((a - b)[b >= 2].tolist()) for a, b in zip(ids, plain)]
        assert all(len(shift) == 1 for shift in moved)
        assert (ids[plain < 2] == plain[plain < 2]).all()
        shifts.append([next(iter(shift)) for shift in moved])
    assert shifts[0] == shifts[2] != shifts[1]
    assert {shift for epoch in shifts for shift in epoch} <= set(range(-5, 6))


def test_transposition_leaves_drums_and_the_range_alone():
    window = np.array([[2, 0, 1, 40], [5, 0, 0, 9]])
    up = transposed(window, ["melody", "drums"], 3, [90, 512])
    assert up.tolist() == [[5, 0, 1, 43], [5, 0, 0, 9]]
    assert transposed(window, ["melody", "drums"], -1, [90, 512]).tolist() == window.tolist()


def test_batches_can_be_resumed_within_an_epoch(grid_corpus):
    data = make_data(grid_corpus, transpose=[-5, 5])
    whole = [batch for batches in data.epoch(2) for batch in batches]
    rest = [batch for batches in data.epoch(2, 5) for batch in batches]
    for one, other in zip(whole[5:], rest):
        assert torch.equal(one.inputs["input_ids"], other.inputs["input_ids"])
    assert (whole[0].num_supervised, whole[0].num_tokens, whole[0].num_bars) == (8, 256, 16)


def test_processes_share_the_validation_windows(grid_corpus):
    arguments = GridArguments(str(grid_corpus), rows_per_batch=10, min_onsets=0)
    shared = {"seed": 0, "batches_per_update": 2, "processes": 2}
    parts = [
        list(GridData(arguments, MusicVAEProcessor(), process=process, **shared).validation_batches())
        for process in range(2)
    ]
    assert len(parts[0]) == len(parts[1]) == 3
    rows = [b.inputs["input_ids"] for part in parts for b in part if b.num_supervised]
    assert len(torch.cat(rows).unique(dim=0)) == 42
    assert sum(b.num_supervised for part in parts for b in part) == 42
    spare = parts[1][-1]  # the second process has one batch fewer
    assert (spare.num_supervised, spare.inputs["labels"].unique().tolist()) == (0, [-100])


def test_midi_becomes_a_corpus(tmp_path, midi_files):
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = tmp_path / "corpus" / "raw"
    raw.mkdir(parents=True)
    for split, files in (("train", midi_files[:4]), ("validation", midi_files[4:6]), ("test", midi_files[6:7])):
        rows = [
            {"midi": f.read_bytes(), "md5": f.stem, "file_name": f.name, "source": "s", "licence": "l", "group_id": "g"}
            for f in files
        ]
        pq.write_table(pa.Table.from_pylist([row | {"genre": None} for row in rows]), raw / f"{split}-0.parquet")
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "drums.mid").write_bytes(midi_files[8].read_bytes())
    (loose / "damaged.mid").write_bytes(b"MThd")
    (loose / "metadata.csv").write_text("file,part\ndrums.mid,test\ndamaged.mid,train\n")
    arguments = ["--corpus", str(tmp_path / "corpus"), "--midi", str(loose), "--split-column", "part"]
    assert prepare_grids.main([*arguments, "-o", str(tmp_path / "grids")]) == 0
    report = json.loads((tmp_path / "grids" / "report.json").read_text())
    assert {split: counts["songs"] for split, counts in report["splits"].items()} == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }
    assert [entry["file_name"] for entry in report["rejected"]] == ["loose/damaged.mid"]
    stored = next(read_stored(tmp_path / "grids", "train"))
    song = read_grid_song(midi_files[0])
    np.testing.assert_array_equal(stored.song.parts[0].notes.pitches, song.parts[0].notes.pitches)
    assert prepare_grids.main(["--corpus", str(tmp_path / "none"), "-o", str(tmp_path / "x")]) == 2


def test_published_schedules():
    assert exponential(50_000, 1e-3, 0.9999, 1e-5) == pytest.approx(1.667e-5, rel=1e-3)
    assert make_value_schedule("beta", {"kind": "saturating", "max": 1, "gamma": 0.99999})(50_000) == pytest.approx(
        0.3935, abs=1e-4
    )
    assert make_value_schedule("p", {"kind": "inverse_sigmoid", "k": 1000})(10_000) == pytest.approx(0.957, abs=5e-4)


def test_collapse_is_noticed(grid_corpus):
    data = make_data(grid_corpus)
    torch.manual_seed(0)
    model = MusicVAEModel(MusicVAEConfig.from_preset("mel_2bar_tiny"))
    with torch.no_grad():
        for layer in (model.encoder.to_mu, model.encoder.to_sigma):
            layer.weight.zero_()
        model.encoder.to_sigma.bias.fill_(math.log(math.e - 1))  # softplus gives 1: the posterior is the prior
    before = torch.get_rng_state()
    monitor = CollapseMonitor(model, data.validation_batches, "cpu")
    figures = monitor()
    assert figures["kl_bits"] == pytest.approx(0, abs=1e-6)
    assert figures["shuffled_nll_gap"] == pytest.approx(0, abs=1e-4)
    assert (figures["active_by_sigma"], figures["active_by_variance"]) == (0, 0)
    with pytest.warns(UserWarning, match="posterior collapse"):
        monitor()
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        model.encoder.to_mu.weight.normal_(std=3.0)
        model.encoder.to_sigma.bias.fill_(-3.0)
    figures = latent_figures(model, data.validation_batches())
    assert figures["active_by_sigma"] == figures["active_by_variance"] == 32
    assert len(figures["kl_bits_per_dim"]) == 32
    assert sum(figures["kl_bits_per_dim"]) == pytest.approx(figures["kl_bits"], rel=1e-3)


def test_bad_arguments():
    for grids, message in (
        ({"rows_per_batch": 0}, "grids.rows_per_batch is 0"),
        ({"transpose": [5, -5]}, "grids.transpose is"),
        ({"max_dropped_share": 2}, "grids.max_dropped_share is 2"),
        ({"max_rest_bars": -2}, "grids.max_rest_bars is -2"),
        ({"corpsu": "x"}, "did you mean 'corpus'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_arguments({"grids": grids})
    with pytest.raises(ValueError, match=r"validation_values\.beta is 'low'"):
        parse_arguments({"validation_values": {"beta": "low"}})


def recipe(folder, corpus, **train_settings):
    content = {
        "model": {"model_type": "musicvae", "preset": "mel_2bar_tiny", "auto_class": "AutoModel"},
        "grids": {"corpus": str(corpus), "rows_per_batch": 16, "min_onsets": 0, "transpose": [-2, 2]},
        "train": {
            "output": str(folder / "run"),
            "max_updates": 6,
            "learning_rate": 2e-3,
            "lr_schedule": "constant",
            "eval_every": 3,
            "save_every": 3,
            "weight_decay": 0.0,
            **train_settings,
        },
        "schedules": {
            "beta": {"kind": "linear", "start": 0, "end": 0.1, "updates": 6},
            "sampling_probability": {"kind": "constant", "value": 0.3},
        },
        "validation_values": {"beta": 0.1, "sampling_probability": 0},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_training_end_to_end_and_resumed(grid_corpus, tmp_path):
    """The one trainer trains a MusicVAE; stopped and resumed equals not stopped."""
    weights = {}
    for name, limits in (("whole", [6]), ("resumed", [3, 6])):
        folder = tmp_path / name
        folder.mkdir()
        path = recipe(folder, grid_corpus)
        for limit in limits:
            assert train.main(["--config", str(path), "--resume", "auto", "--set", f"train.max_updates={limit}"]) == 0
        model = MusicVAEModel.from_pretrained(folder / "run" / "final")
        weights[name] = model.state_dict()
    for key, value in weights["whole"].items():
        assert torch.equal(value, weights["resumed"][key]), key
    log = list(read_log(tmp_path / "whole" / "run" / "log.jsonl"))
    validation = [entry for entry in log if entry["kind"] == "validation"]
    assert [entry["update"] for entry in validation] == [0, 3, 6]
    assert validation[-1]["nll"] < validation[0]["nll"]
    for entry in validation:
        assert entry["nll"] == pytest.approx(entry["reconstruction_loss"] + 0.1 * entry["kl"], rel=1e-3)
        assert {"kl_bits", "active_by_sigma", "active_by_variance", "shuffled_nll_gap"} <= set(entry)
    updates = [entry for entry in log if entry["kind"] == "train"]
    assert [round(entry["beta"], 4) for entry in updates] == [round(0.1 * s / 6, 4) for s in range(1, 7)]
    assert {entry["sampling_probability"] for entry in updates} == {0.3}
    assert MusicVAEProcessor.from_pretrained(tmp_path / "whole" / "run" / "best").num_bars == 2


def test_every_parameter_learns(grid_corpus, tmp_path):
    path = recipe(tmp_path, grid_corpus, max_updates=3)
    assert train.main(["--config", str(path)]) == 0
    torch.manual_seed(0)
    from accelerate.utils import set_seed

    set_seed(0)
    start = MusicVAEModel(MusicVAEConfig.from_preset("mel_2bar_tiny")).state_dict()
    end = MusicVAEModel.from_pretrained(tmp_path / "run" / "final").state_dict()
    assert [name for name, value in start.items() if torch.equal(value, end[name])] == []
