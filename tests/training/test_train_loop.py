"""The training script as a whole: learning, accumulation, precision, stopping, exact resume."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from partimento.modeling import MuseformerForCausalLM
from partimento.tokenization import MidiProcessor
from partimento.training import checkpointing, train
from partimento.training.arguments import ModelArguments, load_arguments
from partimento.training.checkpointing import list_checkpoints, verify_checkpoint
from partimento.training.model_setup import build_config, build_model
from partimento.training.plot_curves import main as plot_main
from partimento.training.run_log import read_log
from partimento.training.run_setup import make_accelerator, make_loop
from partimento.training.schedules import learning_rate
from partimento.training.token_corpus import cut_crop, draw_crops
from partimento.training.token_data import collate
from partimento.training.training_loop import NonFiniteError
from partimento.training.validation import ForwardCall

PNG = b"\x89PNG"


def output_of(config):
    return Path(load_arguments(config).train.output)


@pytest.fixture
def make_test_loop(recipe, fresh_accelerator, tmp_path):
    """A loop that was not started, with changes to the recipe."""

    def make(name="loop", **changes):
        fresh_accelerator()
        arguments = load_arguments(recipe(name, **changes))
        torch.set_num_threads(1)
        loop = make_loop(arguments, make_accelerator(arguments))
        loop.output.mkdir()
        loop.model.train()
        return loop

    return make


def test_ten_updates_learn_and_leave_a_complete_folder(recipe, run_training, logged, facts_of, capsys):
    config = recipe(train__ema_decay=0.5, train__save_every=5, model__generation={"do_sample": True, "top_k": 8})
    assert run_training(config) == 0
    output = output_of(config)
    entries = logged(output)
    losses = [entry["loss"] for entry in entries if entry["kind"] == "train"]
    validations = [entry for entry in entries if entry["kind"] == "validation"]
    assert len(losses) == 10
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0] - 0.3
    assert [entry["update"] for entry in validations] == [0, 4, 8, 10]
    assert all("average_nll" in entry for entry in validations)
    assert {"norm", "lr", "padding", "tokens_seen", "epoch"} <= set(entries[1])
    assert {path.name for path in output.iterdir()} == {
        *("config.yaml", "run.json", "log.jsonl", "curves.png", "latest"),
        *("step-5", "step-10", "best", "final", "average"),
    }
    assert (output / "curves.png").read_bytes().startswith(PNG)
    assert (output / "latest").read_text(encoding="utf-8") == "step-10\n"
    run = facts_of(output / "run.json")
    assert {"commit", "libraries", "data_hash", "vocab_hash", "command"} <= set(run)
    assert run["libraries"]["torch"]
    assert "10 updates" in capsys.readouterr().out

    model = AutoModelForCausalLM.from_pretrained(output / "best")
    processor = MidiProcessor.from_pretrained(output / "best")
    assert processor.vocab_hash == run["vocab_hash"]
    assert model.generation_config.eos_token_id == processor.eos_token_id
    assert (model.generation_config.do_sample, model.generation_config.top_k) == (True, 8)
    assert "learning_rate" not in model.config.to_dict()


def test_every_parameter_changes(make_test_loop):
    loop = make_test_loop()
    before = {name: p.detach().clone() for name, p in loop.plain_model.named_parameters()}
    batches = iter(loop.data.epoch(0))
    for _ in range(3):
        loop.update(next(batches))
    for name, parameter in loop.plain_model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_one_batch_of_eight_equals_eight_batches_of_one(make_test_loop):
    results = []
    for accumulation in (1, 8):
        loop = make_test_loop(
            f"loop-{accumulation}", train__batches_per_update=accumulation, model__config__dropout=0.0
        )
        crops = draw_crops(loop.data.train, "random", 160, seed=0, epoch=0)
        rows = [cut_crop(loop.data.train, crops, item) for item in range(8)]
        assert len({len(row.body) for row in rows}) > 4
        groups = [rows] if accumulation == 1 else [[row] for row in rows]
        loop.update([collate(group, loop.processor.pad_token_id, True) for group in groups])
        weights = torch.cat([p.detach().flatten() for p in loop.plain_model.parameters()])
        gradient_norm = loop.state.recent_norms[-1]
        results.append((weights, loop.state.window["sum_loss"], gradient_norm))
    (weights, loss, norm), (weights_8, loss_8, norm_8) = results
    assert loss_8 == pytest.approx(loss, rel=1e-6)
    assert norm_8 == pytest.approx(norm, rel=1e-5)
    # Adam's first step is +-lr whatever the size of the gradient: only vanishing gradients may differ in sign.
    assert (weights - weights_8).abs().gt(1e-5).float().mean() < 1e-3


def test_loss_is_the_token_mean_and_clipping_reports_the_norm_before(make_test_loop):
    loop = make_test_loop(train__max_grad_norm=1e-3, model__config__dropout=0.0)
    batches = next(iter(loop.data.epoch(0)))
    total, count = 0.0, 0
    for batch in batches:
        logits = loop.plain_model(**{k: v for k, v in batch.inputs.items() if k != "labels"}).logits.detach()
        labels = batch.inputs["labels"][:, 1:]
        log_likelihood = logits[:, :-1].log_softmax(-1)
        for row, column in (labels != -100).nonzero().tolist():
            total -= float(log_likelihood[row, column, labels[row, column]])
            count += 1
    loop.update(batches)
    window = loop.state.window
    assert window["supervised"] == count
    assert window["sum_loss"] == pytest.approx(total, rel=1e-5)
    assert window["norm"] > 0.1


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_the_loop_knows_no_architecture(recipe, run_training, logged, model_type):
    sizes = {
        "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
        "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 256},
    }
    config = recipe(model={"model_type": model_type, "config": sizes[model_type]}, train__max_updates=4)
    assert run_training(config) == 0
    losses = [entry["loss"] for entry in logged(output_of(config)) if entry["kind"] == "train"]
    assert losses[-1] < losses[0]


def test_scheduled_values_need_an_argument_of_forward(recipe, run_training, capsys):
    assert run_training(recipe(schedules={"beta": 0.2})) == 2
    assert "schedules.beta" in capsys.readouterr().err


def test_bf16_stays_finite(recipe, run_training, logged):
    config = recipe(train__mixed_precision="bf16", train__max_updates=4)
    assert run_training(config) == 0
    entries = [entry for entry in logged(output_of(config)) if entry["kind"] == "train"]
    assert all(math.isfinite(entry["loss"]) and math.isfinite(entry["norm"]) for entry in entries)
    weights = load_file(output_of(config) / "final" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_poisoned_batch_stops_the_run(recipe, run_training, facts_of, monkeypatch, capsys):
    healthy, calls = ForwardCall.__call__, []

    def poisoned(self, model, batch, device, count, values):
        loss, terms = healthy(self, model, batch, device, count, values)
        calls.append(model.training)
        return (loss * math.nan if sum(calls) == 5 else loss), terms

    monkeypatch.setattr(ForwardCall, "__call__", poisoned)
    config = recipe()
    assert run_training(config) == 1
    output = output_of(config)
    assert "crash-3" in capsys.readouterr().err
    assert verify_checkpoint(output / "crash-3") is None
    report = facts_of(output / "crash-3" / "crash.json")
    assert report["update"] == 3
    assert len(report["norms"]) == 3
    assert report["norms"][-1] == "nan"
    assert all("@" in name for songs in report["songs"][0] for name in songs)
    weights = load_file(output / "crash-3" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert not (output / "final").exists()
    assert list(read_log(output / "log.jsonl"))[-1]["event"] == "non-finite"
    monkeypatch.undo()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert run_training(config, "--resume", str(output / "crash-3")) == 0


def test_updates_above_the_norm_limit_are_dropped(make_test_loop):
    loop = make_test_loop(train__skip_update_above_norm=1e-6)
    before = torch.cat([p.detach().flatten() for p in loop.plain_model.parameters()])
    loop.update(next(iter(loop.data.epoch(0))))
    after = torch.cat([p.detach().flatten() for p in loop.plain_model.parameters()])
    assert loop.state.skipped_updates == 1
    assert torch.equal(before, after)
    assert all(p.grad is None for p in loop.plain_model.parameters())


def test_scaler_skips_are_counted_and_fatal_only_in_a_row(make_test_loop):
    class Scaler:
        def update(self):
            raise AssertionError("the optimiser wrapper updates the scale")

    loop = make_test_loop(train__max_scaler_skips=3)
    loop.accelerator.scaler = Scaler()
    batches = next(iter(loop.data.epoch(0)))
    for _ in range(2):
        for _ in range(3):
            loop.apply(batches, loss=1.0, norm=math.inf)
        loop.apply(batches, loss=1.0, norm=1.0)
    assert loop.state.skipped_updates == 6
    loop.accelerator.scaler = None
    with pytest.raises(NonFiniteError, match="gradient norm inf"):
        loop.apply(batches, loss=1.0, norm=math.inf)


def test_gradient_checkpointing_changes_nothing(make_test_loop):
    results = []
    for name in ("plain", "checkpointed"):
        loop = make_test_loop(name, model__gradient_checkpointing=name == "checkpointed", model__config__dropout=0.0)
        loop.update(next(iter(loop.data.epoch(0))))
        results.append((loop.state.window["sum_loss"], loop.state.window["norm"]))
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_a_run_can_start_from_the_weights_of_another(recipe, run_training, logged):
    assert run_training(recipe("first")) == 0
    best = output_of(recipe("first")) / "best"
    second = recipe("second", model={"init_from": str(best)}, train__max_updates=1)
    assert run_training(second) == 0
    end = [e for e in logged(output_of(recipe("first"))) if e["kind"] == "validation" and e["best"]][-1]
    assert logged(output_of(second))[0]["nll"] == pytest.approx(end["nll"], rel=1e-6)


def test_tensorboard_is_fed_beside_the_log(recipe, run_training):
    pytest.importorskip("tensorboard")
    config = recipe(train__report_to=["tensorboard"], train__max_updates=2)
    assert run_training(config) == 0
    assert list(output_of(config).rglob("events.out.tfevents*"))


def test_weight_decay_groups(make_test_loop):
    loop = make_test_loop()
    decayed, free = loop.optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for name, p in loop.plain_model.named_parameters()}
    assert all(p.ndim == 2 and "embed" not in names[id(p)] for p in decayed["params"])
    loop = make_test_loop("all", train__decay_all=True)
    assert len(loop.optimizer.param_groups) == 1


def test_moving_average(make_test_loop):
    loop = make_test_loop(train__ema_decay=0.75)
    name, parameter = next(iter(loop.plain_model.named_parameters()))
    first = parameter.detach().clone()
    loop.update(next(iter(loop.data.epoch(0))))
    second = parameter.detach().clone()
    torch.testing.assert_close(loop.average.shadow[name], 0.75 * first + 0.25 * second)
    loop.average.swap(loop.plain_model)
    torch.testing.assert_close(parameter.detach(), 0.75 * first + 0.25 * second)
    loop.average.swap(loop.plain_model)
    assert torch.equal(parameter.detach(), second)


def test_patience_ends_a_run_that_does_not_improve(recipe, run_training):
    config = recipe(train__learning_rate=1e-12, train__eval_every=1, train__patience=2, train__min_delta=0.01)
    assert run_training(config) == 0
    assert list_checkpoints(output_of(config))[-1].name == "step-2"


def test_a_time_limit_cools_down_and_ends_cleanly(recipe, run_training, logged):
    config = recipe(train__max_updates=50, train__max_minutes=1e-6, train__cooldown_updates=4)
    assert run_training(config) == 0
    output = output_of(config)
    rates = [entry["lr"] for entry in logged(output) if entry["kind"] == "train"]
    assert rates == pytest.approx([3e-3 * factor for factor in (1, 1, 0.75, 0.5, 0.25)])
    assert (output / "final").is_dir()
    assert run_training(config, "--resume", "auto") == 0  # finished: nothing is added
    assert len([entry for entry in logged(output) if entry["kind"] == "train"]) == 5


def test_a_token_limit_cools_down_and_can_be_raised(recipe, run_training, logged):
    config = recipe(
        train__max_updates=500, train__max_tokens=6000, train__cooldown_updates=4, train__batches_per_update=1
    )
    assert run_training(config) == 0
    output = output_of(config)
    train = [entry for entry in logged(output) if entry["kind"] == "train"]
    assert train[-1]["tokens_seen"] == pytest.approx(6000, abs=500)  # an update has at most 480 tokens
    assert [entry["lr"] for entry in train[-5:]] == pytest.approx([3e-3 * factor for factor in (1, 1, 0.75, 0.5, 0.25)])
    assert run_training(config, "--resume", "auto") == 0  # finished: nothing is added
    assert len([entry for entry in logged(output) if entry["kind"] == "train"]) == len(train)
    assert run_training(config, "--resume", "auto", "--set", "train.max_tokens=8000") == 0
    assert [e["tokens_seen"] for e in logged(output) if e["kind"] == "train"][-1] == pytest.approx(8000, abs=500)


def test_a_raised_time_limit_goes_on_and_keeps_the_first_facts(recipe, run_training, logged, facts_of):
    config = recipe(train__max_updates=4, train__max_minutes=1e-6)
    assert run_training(config) == 0
    output = output_of(config)
    before, settings = facts_of(output / "run.json"), (output / "config.yaml").read_text(encoding="utf-8")
    assert len([entry for entry in logged(output) if entry["kind"] == "train"]) < 4
    assert run_training(config, "--resume", "auto", "--set", "train.max_minutes=60", "train.learning_rate=1e-3") == 0
    assert len([entry for entry in logged(output) if entry["kind"] == "train"]) == 4
    after = facts_of(output / "run.json")
    assert (output / "config.yaml").read_text(encoding="utf-8") == settings
    first, second = after.pop("sessions")
    assert [first] == before.pop("sessions")
    assert after == before
    assert (first["commit"], first["resumed_at"]) == (before["commit"], 0)
    assert second["resumed_at"] > 0
    assert [change.partition(":")[0] for change in second["changed"]] == ["train.max_minutes", "train.learning_rate"]


def test_resuming_without_a_usable_checkpoint_deletes_nothing(recipe, run_training, capsys):
    config = recipe(train__max_updates=2)
    assert run_training(config) == 0
    output = output_of(config)
    (output / "step-2" / "manifest.json").unlink()
    log = (output / "log.jsonl").read_bytes()
    assert run_training(config, "--resume", "auto") == 2
    assert "step-2: no usable manifest.json" in capsys.readouterr().err
    assert (output / "log.jsonl").read_bytes() == log


def test_weights_of_another_vocabulary(tmp_path, train_processor):
    source = tmp_path / "source"
    config = build_config(ModelArguments(preset="tiny"), train_processor)
    before = MuseformerForCausalLM(config).eval()
    before.save_pretrained(source)
    with pytest.raises(ValueError, match="no usable processor"):
        build_model(ModelArguments(init_from=str(source)), train_processor)
    train_processor.save_pretrained(source)
    same_size = MidiProcessor.from_preset("multitrack", genres=("Jazz", "Swing"))
    with pytest.raises(ValueError, match="--processor"):
        build_model(ModelArguments(init_from=str(source)), same_size)

    longer = train_processor.with_labels(genres=("Swing",))
    model = build_model(ModelArguments(init_from=str(source)), longer).eval()
    old, size = len(train_processor.vocabulary.tokens), len(longer.vocabulary.tokens)
    assert size == old + 1
    assert model.config.vocab_size == size
    assert model.get_input_embeddings().weight.shape[0] == model.lm_head.weight.shape[0] == size
    ids = torch.tensor([[1, model.config.bar_token_id, model.config.position_token_start, 300]])
    with torch.no_grad():
        logits = model(ids).logits
        torch.testing.assert_close(logits[..., :old], before(ids).logits, rtol=1e-4, atol=1e-5)
    assert logits.shape[-1] == size
    loss = model(ids, labels=ids).loss
    loss.backward()
    model.save_pretrained(tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").lm_head.weight.shape[0] == size


def test_an_existing_run_is_not_overwritten(recipe, run_training, capsys):
    config = recipe(train__max_updates=1)
    assert run_training(config) == 0
    assert run_training(config) == 2
    assert "--resume auto" in capsys.readouterr().err


def test_other_data_is_refused_on_resume(recipe, run_training, capsys):
    config = recipe(train__max_updates=1)
    assert run_training(config) == 0
    assert run_training(config, "--resume", "auto", "--set", "data.train_split=validation") == 2
    assert "data_hash differs" in capsys.readouterr().err


def test_other_process_counts_are_refused(recipe, run_training, monkeypatch, capsys):
    config = recipe(train__max_updates=2)
    assert run_training(config, "--expect-processes", "2") == 2
    assert "--expect-processes 2, but 1 started" in capsys.readouterr().err
    monkeypatch.setattr(checkpointing, "read_facts", lambda folder: {"num_processes": 2})
    assert run_training(config) == 0
    assert run_training(config, "--resume", "auto") == 2
    assert "--allow-resharding" in capsys.readouterr().err
    assert run_training(config, "--resume", "auto", "--allow-resharding") == 0


def test_log_every_averages_over_updates(recipe, run_training, logged):
    assert run_training(recipe("each")) == 0
    assert run_training(recipe("fifth", train__log_every=5)) == 0
    each, fifth = (
        [entry for entry in logged(output_of(recipe(name))) if entry["kind"] == "train"] for name in ("each", "fifth")
    )
    assert [entry["update"] for entry in fifth] == [5, 10]
    assert fifth[0]["norm"] == pytest.approx(np.mean([entry["norm"] for entry in each[:5]]))
    assert fifth[1]["tokens_seen"] == each[-1]["tokens_seen"]
    low, high = min(e["loss"] for e in each[:5]), max(e["loss"] for e in each[:5])
    assert low < fifth[0]["loss"] < high


def test_curves_are_drawn_from_the_log_alone(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    lines = ['{"kind": "validation", "update": 0, "nll": 3.0}\n']
    line = '{{"kind": "train", "update": {0}, "loss": 2.5, "norm": "nan", "lr": 0.1, "tokens_per_second": 9}}\n'
    lines += [line.format(update) for update in range(1, 300)]
    log.write_text("".join(lines), encoding="utf-8")
    image = tmp_path / "curves.png"
    assert plot_main([str(log), "-o", str(image)]) == 0
    assert image.read_bytes().startswith(PNG)
    log.write_text("", encoding="utf-8")
    assert plot_main([str(log), "-o", str(image)]) == 2
    assert "no training" in capsys.readouterr().err


KILL_IN_UPDATE = """
import os, signal
from partimento.training import train, training_loop
update = training_loop.TrainingLoop.update
def killed(self, batches):
    if self.state.update == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    update(self, batches)
training_loop.TrainingLoop.update = killed
train.main(["--config", {config!r}])
"""

KILL_IN_CHECKPOINT = """
import os, signal
from partimento.tokenization import MidiProcessor
from partimento.training import checkpointing, train
write_manifest = checkpointing.write_manifest
def killed(folder, facts):
    if folder.name == ".tmp-step-8":
        (folder / "model.safetensors").write_bytes(b"torn")
        os.kill(os.getpid(), signal.SIGKILL)
    write_manifest(folder, facts)
checkpointing.write_manifest = killed
train.main(["--config", {config!r}])
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [KILL_IN_UPDATE, KILL_IN_CHECKPOINT], ids=["in an update", "in a checkpoint"])
def test_killed_and_resumed_equals_uninterrupted(recipe, run_training, logged, facts_of, script):
    changes = {"train__max_updates": 23, "train__ema_decay": 0.9, "train__log_every": 3, "train__eval_every": 5}
    whole, broken = recipe("whole", **changes), recipe("broken", **changes)
    assert run_training(whole) == 0
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    code = script.format(config=str(broken))
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert [path.name for path in list_checkpoints(output_of(broken))] == ["step-4"]
    assert run_training(broken, "--resume", "auto") == 0

    one, other = output_of(whole), output_of(broken)
    assert logged(one) == logged(other)
    for folder in ("final", "best", "average"):
        expected, found = (load_file(path / folder / "model.safetensors") for path in (one, other))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected), folder
    assert [path.name for path in list_checkpoints(one)] == [path.name for path in list_checkpoints(other)]
    states = [facts_of(path / "step-23" / "loop_state.json") for path in (one, other)]
    for state in states:
        state.pop("seconds")
        state["window"].pop("seconds", None)
    assert states[0] == states[1]
    assert not list(other.glob(".tmp-*"))
    events = [entry for entry in read_log(other / "log.jsonl") if entry["kind"] == "event"]
    assert [entry["event"] for entry in events] == ["start", "resume"]
    assert events[1]["changed"] == []


@pytest.mark.slow
def test_two_processes_equal_one(recipe, run_training, logged):
    changes = {"model__config__dropout": 0.0, "train__max_updates": 6, "train__learning_rate": 1e-3}
    streamed = changes | {"data__streaming": True, "data__stream_songs": 40}  # one pool: the batches in memory
    one, two = recipe("one", **changes), recipe("two", **streamed)
    assert run_training(one) == 0
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [train.__file__, "--config", str(two), "--expect-processes", "2"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    for expected, found in zip(logged(output_of(one)), logged(output_of(two)), strict=True):
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            assert found[key] == (pytest.approx(value, rel=2e-4) if isinstance(value, float) else value), key
    weights = [load_file(output_of(config) / "final" / "model.safetensors") for config in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=0, atol=2e-4)
    # The checkpoint of two processes serves one, if that is asked for.
    longer = recipe("two", **streamed | {"train__max_updates": 8})
    assert run_training(longer, "--resume", "auto") == 2
    assert run_training(longer, "--resume", "auto", "--allow-resharding") == 0


def test_the_planned_rate_is_the_one_that_was_used(recipe, run_training, logged):
    config = recipe(train__lr_schedule="cosine", train__warmup_updates=3, train__final_learning_rate=1e-5)
    assert run_training(config) == 0
    settings = load_arguments(config).train
    rates = [entry["lr"] for entry in logged(output_of(config)) if entry["kind"] == "train"]
    assert rates == [learning_rate(update, settings, 10) for update in range(1, 11)]
