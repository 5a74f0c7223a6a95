"""Truncated back-propagation: every target once, songs kept apart, resuming in the middle of a song."""

import math

import numpy as np
import pytest
import torch

from partimento.training.arguments import DataArguments
from partimento.training.bptt_arguments import BpttArguments
from partimento.training.bptt_data import NOTHING, WindowData, plan_lanes
from partimento.training.token_data import IGNORED

LSTM = {"model_type": "music_recurrent", "config": {"hidden_size": 12, "embedding_size": 8, "dropout": 0.1}}


def window_data(
    corpus, processor, *, augmented=False, lanes=4, window=32, carry=True, batches=1, process=0, processes=1
):
    arguments = DataArguments(corpus=str(corpus))
    if not augmented:
        arguments.transpose, arguments.tempo_factor = [], []
        arguments.condition_slot_dropout = arguments.condition_all_dropout = 0.0
    bptt = BpttArguments(window=window, lanes=lanes, carry=carry)
    return WindowData(
        arguments, bptt, processor, seed=5, batches_per_update=batches, process=process, processes=processes
    )


@pytest.mark.parametrize("shuffled", [False, True])
def test_plan_deals_every_window_once(shuffled):
    num_windows = np.array([3, 1, 7, 2, 2, 5, 1])
    plan = plan_lanes(num_windows, 3, seed=1, epoch=0, shuffled=shuffled)
    dealt = [tuple(pair) for pair in plan.reshape(-1, 2).tolist() if pair[0] != NOTHING]
    assert sorted(dealt) == [(song, window) for song, count in enumerate(num_windows) for window in range(count)]
    if not shuffled:
        for lane in plan.transpose(1, 0, 2):
            songs, windows = lane[lane[:, 0] != NOTHING].T
            same = songs[1:] == songs[:-1]
            assert (windows[1:][same] == windows[:-1][same] + 1).all()
            assert (windows[1:][~same] == 0).all()
            assert (windows[:-1][~same] == num_windows[songs[:-1][~same]] - 1).all()
    assert not np.array_equal(plan, plan_lanes(num_windows, 3, seed=1, epoch=1, shuffled=shuffled))


@pytest.mark.parametrize("carry", [True, False])
def test_windows_hold_every_target_once(train_corpus, train_processor, carry):
    data = window_data(train_corpus, train_processor, carry=carry)
    data.train.names = [str(i) for i in range(len(data.train))]
    inputs, targets = {}, {}
    for batches in data.epoch(0):
        (batch,) = batches
        ids, labels = batch.inputs["input_ids"], batch.inputs["shift_labels"]
        names = iter(batch.songs)
        for row in range(len(ids)):
            length = int((ids[row] != data.train.vocabulary.pad).sum())
            if length:
                name, _, window = next(names).rpartition("#")
                assert bool(batch.starts[row]) == (window == "0")
                inputs.setdefault(name, {})[int(window)] = ids[row, :length]
                targets.setdefault(name, {})[int(window)] = labels[row, :length]
            assert (labels[row, length:] == IGNORED).all()
        assert batch.num_supervised == int((labels != IGNORED).sum())
    assert len(inputs) == len(data.train)
    for i, name in enumerate(data.train.names):
        song, prefix = torch.from_numpy(data.train.song(i)), int(data.train.prefix_lengths[i])
        whole = torch.cat([inputs[name][w] for w in sorted(inputs[name])])
        assert torch.equal(whole, song[:-1].long())
        expected = song[1:].clone().long()
        expected[: prefix - 1] = IGNORED
        assert torch.equal(torch.cat([targets[name][w] for w in sorted(targets[name])]), expected)


def test_a_window_can_be_rebuilt_and_processes_share_the_lanes(train_corpus, train_processor):
    settings = {"augmented": True, "lanes": 4, "batches": 2}
    whole = list(window_data(train_corpus, train_processor, **settings).epoch(1))
    late = list(window_data(train_corpus, train_processor, **settings).epoch(1, position=7))
    shares = [
        list(window_data(train_corpus, train_processor, **settings, process=p, processes=2).epoch(1)) for p in (0, 1)
    ]
    assert len(late) == len(whole) - 7
    for update, again in zip(whole[7:], late):
        for a, b in zip(update, again):
            assert all(torch.equal(a.inputs[name], b.inputs[name]) for name in a.inputs)
    for k, update in enumerate(whole):
        for p in (0, 1):
            assert torch.equal(update[p].inputs["input_ids"], shares[p][k][0].inputs["input_ids"])


def test_carried_windows_cost_what_whole_songs_cost(recipe, run_training, logged, tmp_path, train_corpus):
    """At a learning rate of almost zero the epoch's loss is the whole songs' loss: the state passes every border and
    no song sees another."""
    config = recipe(
        "carried",
        model={**LSTM, "config": {**LSTM["config"], "dropout": 0.0, "initializer_range": 1.0}},
        bptt={"window": 24, "lanes": 4},
        train__max_updates=10**6,
        train__learning_rate=1e-30,
        train__batches_per_update=2,
        train__eval_every=0,
        train__save_every=0,
        train__weight_decay=0.0,
        data__transpose=[],
        data__tempo_factor=[],
        data__condition_slot_dropout=0.0,
        data__condition_all_dropout=0.0,
    )
    from partimento.tokenization import MidiProcessor
    from partimento.training.likelihood import model_token_nll
    from partimento.training.token_corpus import TokenCorpus

    processor = MidiProcessor.from_pretrained(train_corpus / "processor")
    corpus = TokenCorpus.from_parquet(train_corpus, "train", processor.vocabulary)
    plan = plan_lanes(-(-(np.diff(corpus.offsets) - 1) // 24), 4, seed=0, epoch=0)
    assert run_training(config, "--set", f"train.max_updates={len(plan)}", f"train.log_every={len(plan)}") == 0
    (entry,) = [e for e in logged(tmp_path / "carried") if e["kind"] == "train"]

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "carried" / "final", dtype=torch.float32)
    songs = [corpus.song(i) for i in range(len(corpus))]
    masks = [np.arange(len(song)) >= prefix for song, prefix in zip(songs, corpus.prefix_lengths)]
    nll = np.concatenate(model_token_nll(model, songs, masks))
    assert entry["tokens_seen"] == len(corpus.ids) - len(corpus)
    assert math.isclose(entry["loss"], nll.mean(), rel_tol=1e-5)


def test_killed_in_the_middle_of_songs_and_resumed_equals_straight_through(recipe, run_training, logged, tmp_path):
    settings = {"model": LSTM, "bptt": {"window": 16, "lanes": 4}, "train__max_updates": 9, "train__save_every": 4}
    assert run_training(recipe("straight", **settings)) == 0
    part = recipe("part", **settings)
    assert run_training(part, "--set", "train.max_updates=4") == 0
    assert run_training(part, "--resume", "auto") == 0
    kept = [e for e in logged(tmp_path / "straight") if e["kind"] == "train"]
    again = [e for e in logged(tmp_path / "part") if e["kind"] == "train"]
    assert [e["loss"] for e in kept] == [e["loss"] for e in again]
    assert (tmp_path / "part" / "step-8" / "carried_states_0.safetensors").is_file()
    weights = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("straight", "part")]
    assert weights[0] == weights[1]


def test_stateless_windows_train(recipe, run_training, logged, tmp_path):
    config = recipe("stateless", model=LSTM, bptt={"window": 16, "lanes": 4, "carry": False}, train__max_updates=3)
    assert run_training(config) == 0
    assert all(math.isfinite(e["loss"]) for e in logged(tmp_path / "stateless") if e["kind"] == "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bptt": {"window": 16, "lanes": 3}}, "bptt.lanes"),
        ({"bptt": {"window": -1}}, "bptt.window"),
        ({"bptt": {"windows": 16}}, "window"),
        ({"bptt": {"window": 16, "lanes": 4}}, "music_recurrent"),
    ],
)
def test_wrong_settings_are_named(recipe, run_training, capsys, changes, message):
    assert run_training(recipe("wrong", **changes)) == 2
    assert message in capsys.readouterr().err
