"""The comparison of families: equal sizes and budgets, figures by hand, all steps on a small corpus, going on."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from partimento.training import benchmark_lm, compare, evaluate_lm, evaluate_samples
from partimento.training.arguments import load_arguments
from partimento.training.comparison_findings import findings, verdict
from partimento.training.comparison_report import bits_per_bar_difference
from partimento.training.model_setup import build_config
from partimento.training.ngram_lm import fit_ngram, load_generator
from partimento.training.songs import Song, token_subset

NETWORKS = [name for name in compare.MODELS if "gram" not in name]


def test_the_models_have_equal_sizes_and_budgets(train_processor):
    sizes, budgets = {}, set()
    for name in NETWORKS:
        recipe = load_arguments(compare.parse_contestant(name).recipe)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(build_config(recipe.model, train_processor))
        sizes[name] = model.num_parameters()
        train, data = recipe.train, recipe.data
        per_update = recipe.bptt.window * recipe.bptt.lanes or data.max_tokens_per_batch
        limits = (train.max_updates, train.max_minutes, train.batches_per_update, train.mixed_precision)
        validation = (data.validation_crop, data.validation_length, data.validation_songs)
        schedule = (train.lr_schedule, train.warmup_updates, train.cooldown_updates, train.eval_every)
        budgets.add((per_update, *limits, *validation, *schedule))
    assert len(budgets) == 1
    for name, size in sizes.items():
        assert size == pytest.approx(sizes["museformer"], rel=0.05), name
    assert sizes["full-attention"] == sizes["museformer"]


def test_difference_in_bits_per_bar_by_hand():
    ours = {"nats": [4 * math.log(2), 9 * math.log(2)], "tokens": [10, 30], "bars": [1, 3]}
    theirs = {**ours, "nats": [2 * math.log(2), 5 * math.log(2)]}
    found = bits_per_bar_difference([ours], [theirs])
    assert found == {"songs": 2, "bits_per_bar": pytest.approx((2 + 4) / 4), "standard_error": pytest.approx(
        math.sqrt(2 * (0.5**2 + 0.5**2)) / 4  # residuals 2 - 1.5 and 4 - 4.5
    )}  # fmt: skip
    long = bits_per_bar_difference([ours], [theirs, theirs], above=10)
    assert long == {"songs": 1, "bits_per_bar": pytest.approx(4 / 3), "standard_error": None}
    assert bits_per_bar_difference([ours], [theirs], above=30) is None
    assert verdict({"bits_per_bar": 3.0, "standard_error": 1.0}) == "beats"
    assert verdict({"bits_per_bar": -3.0, "standard_error": 1.0}) == "loses to"
    assert verdict({"bits_per_bar": 3.0, "standard_error": 2.0}) == "cannot be told from"


def test_a_draw_of_songs_holds_the_asked_tokens():
    songs = [Song(np.zeros(length, np.int32), "x", str(length)) for length in range(1, 21)]
    chosen = token_subset(songs, 100, seed=1)
    total = sum(len(song.ids) for song in chosen)
    assert 100 <= total < 120
    assert [len(song.ids) for song in chosen] == sorted(len(song.ids) for song in chosen)  # corpus order
    assert token_subset(songs, None, 1) is songs
    assert token_subset(songs, 10**6, 1) == songs


@pytest.fixture
def genre_corpus(tmp_path, train_corpus):
    """The small corpus with the column of genres that an evaluation reads."""
    folder = tmp_path / "corpus"
    (folder / "tokenized").mkdir(parents=True)
    (folder / "processor").symlink_to(train_corpus / "processor")
    for file in (train_corpus / "tokenized").iterdir():
        table = pq.read_table(file)
        metadata = table.schema.metadata
        table = table.append_column("genre", pa.array(["Jazz"] * len(table)))
        pq.write_table(table.replace_schema_metadata(metadata), folder / "tokenized" / file.name)
    return folder


def test_ngram_model_writes_with_its_own_probabilities(genre_corpus, train_processor):
    ngram = fit_ngram(genre_corpus, train_processor, 3)
    generator = load_generator("3-gram", "cpu", genre_corpus)
    assert generator.model.ngram.num_train_tokens == ngram.num_train_tokens
    ids = [train_processor.bos_token_id, train_processor.bar_token_id, 60, 61]
    for length in (1, 2, 4):  # shorter than the order, and longer
        logits = generator.model(torch.tensor([ids[:length]])).logits
        expected = ngram.distribution(ids[:length])
        assert logits.shape == (1, 1, len(train_processor.vocabulary.tokens))
        np.testing.assert_allclose(logits[0, 0].exp().numpy(), expected, rtol=1e-5)
        nll = ngram.token_nll([np.array([*ids[:length], 70])])[0]
        assert expected[70] == pytest.approx(math.exp(-nll[-1]))
    first, second = (generator.generate(instruments=["piano"], bars=2, seed=3)[0] for _ in range(2))
    assert first.ids == second.ids
    train_processor.validate(first.ids)
    assert first.num_bars == 2
    with pytest.raises(ValueError, match="give --corpus"):
        load_generator("3-gram", "cpu")


def test_all_steps_and_what_is_done_is_not_done_again(
    genre_corpus, recipe, run_training, tmp_path, monkeypatch, capsys
):
    museformer = recipe("museformer", train__output="x", data__max_tokens_per_batch=160, train__batches_per_update=1)
    network = {"model_type": "music_recurrent", "config": {"cell_type": "lstm", "hidden_size": 24, "embedding_size": 8}}
    lstm = recipe("lstm", model=network, bptt={"window": 20, "lanes": 8})
    output, steps = tmp_path / "comparison", []

    def in_this_process(step):
        steps.append(step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        arguments = list(step.arguments)
        if step.program == "train.py":
            assert run_training(arguments[1], *arguments[2:]) == 0
        else:
            program = {"evaluate_lm.py": evaluate_lm, "evaluate_samples.py": evaluate_samples}
            assert program.get(step.program, benchmark_lm).main(arguments) == 0

    monkeypatch.setattr(compare, "run_step", in_this_process)
    budget = ["--tokens", "1500", "--max-songs", "6", "--max-tokens", "200", "--samples", "1", "--bars", "1"]
    settings = ["train.cooldown_updates=2", "train.eval_every=5", "train.log_every=1", "train.max_updates=1000"]
    common = ["--corpus", str(genre_corpus), "--split", "validation", "-o", str(output), *budget, "--set", *settings]
    arguments = ["--models", "2-gram", str(lstm), str(museformer), *common]
    assert compare.main(arguments) == 130
    assert compare.main(arguments) == 0
    assert len(steps) == 1 + 3 + 2 * 4  # the interrupted one; likelihood, samples and speed; the networks also train
    report = json.loads((output / "comparison.json").read_text())
    assert list(report["models"]) == ["2-gram", "lstm", "museformer"]
    assert (report["reference"], report["songs"]) == ("museformer", 6)
    for name in ("lstm", "museformer"):
        model = report["models"][name]
        assert 1300 <= model["training"]["tokens"]["mean"] <= 1700, name
        tokens = [point[0] for point in model["curve"]]
        assert tokens[0] == 0
        assert tokens == sorted(tokens)
        assert len(tokens) > 2
        assert model["curve"][-1][1] < model["curve"][0][1]
        assert model["speed"]["training"]["mean"] > 0
    assert report["models"]["lstm"]["reads"] == "whole songs in windows of 20 tokens, 8 lanes, the state carried"
    assert report["models"]["museformer"]["difference"]["bits_per_bar"] == 0
    ngram = report["models"]["2-gram"]
    assert ngram["training"]["tokens"]["mean"] < 2500  # a draw, not the whole split
    assert ngram["difference"]["bits_per_bar"] == pytest.approx(
        ngram["figures"]["bits_per_bar"]["mean"] - report["models"]["museformer"]["figures"]["bits_per_bar"]["mean"]
    )
    assert set(report["form"]["sets"]) == {"held_out", "2-gram", "lstm", "museformer"}
    assert len(findings(report)) >= 5
    text = (output / "comparison.md").read_text()
    for words in ("| museformer |", "Longest span of a training song", "overlapping area", "by bar of the song"):
        assert words in text
    assert (output / "comparison.png").is_file()
    assert yaml.safe_load((output / "lstm-seed0" / "config.yaml").read_text())["train"]["max_tokens"] == 1500
    given = ["--models", "2-gram", f"given={output}/lstm-seed0/final", *common]
    assert compare.main(given) == 0
    assert len(steps) == 12 + 3
    merged = json.loads((output / "comparison.json").read_text())["models"]
    for key in ("figures", "training", "curve", "reads"):  # the log beside the given model is read, too
        assert merged["given"][key] == report["models"]["lstm"][key], key
    capsys.readouterr()
    assert compare.main([*arguments, "--tokens", "9"]) == 1
    assert "holds runs with other tokens: choose another --output" in capsys.readouterr().err
    assert compare.main([*arguments, "--samples", "2"]) == 1
    assert "holds runs with other samples" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["7-grams", "absent", "x=absent", "absent.yml=3"])
def test_a_word_that_is_no_model(word, genre_corpus, tmp_path, capsys):
    assert compare.main(["--corpus", str(genre_corpus), "--models", word, "-o", str(tmp_path / "out")]) == 1
    assert f"--models {word}: give one of" in capsys.readouterr().err
