"""The comparison of variants: figures by hand, all steps on a small corpus, and going on after an interruption."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from partimento.training import comparison_runs, evaluate_lm, run_ablations
from partimento.training.ablation_report import mean_curve, over_seeds, paired_difference
from partimento.training.arguments import load_arguments
from partimento.training.model_setup import build_config

CHANGES = {
    "museformer": ((1, 2, 4, 8, 12, 16, 24, 32), True),
    "no-coarse": ((1, 2, 4, 8, 12, 16, 24, 32), False),
    "no-bar-selection": ((1, 2, 3, 4, 5, 6, 7, 8), True),
    "full-attention": (None, True),
}


def test_the_recipes_differ_in_what_is_attended_and_in_nothing_else(train_processor):
    contents, sizes = [], set()
    for recipe, (name, (offsets, coarse)) in zip(run_ablations.RECIPES, CHANGES.items()):
        arguments = load_arguments(recipe)
        config = build_config(arguments.model, train_processor)
        assert (recipe.stem, config.fine_offsets, config.coarse_attention) == (f"ablation-{name}", offsets, coarse)
        sizes.add((config.hidden_size, config.num_hidden_layers))
        content = arguments.to_dict()
        for key in ("fine_offsets", "coarse_attention"):
            content["model"]["config"].pop(key, None)
        del content["model"]["attn_implementation"], content["train"]["output"]
        contents.append(content)
    assert all(content == contents[0] for content in contents)
    assert len(sizes) == 1


def test_differences_by_hand():
    def run(*nats):
        return {"nats": list(nats), "tokens": [2, 2]}

    # two seeds; mean losses of the songs: 4 and 8 against 3 and 5
    found = paired_difference([run(3, 7), run(5, 9)], [run(3, 5), run(3, 5)])
    assert found["nats_per_token"] == (1 + 3) / 4
    assert found["standard_error"] == pytest.approx(np.sqrt(2 / 1 * (1 + 1)) / 4)  # residuals 1 - 2 and 3 - 2
    assert paired_difference([run(3, 7)], [run(3, 7)]) == {"nats_per_token": 0.0, "standard_error": 0.0}
    with pytest.raises(ValueError, match="different songs"):
        paired_difference([run(3, 7)], [{"nats": [1], "tokens": [2]}])
    assert over_seeds([1.0, 3.0]) == {"each": [1.0, 3.0], "mean": 2.0, "deviation": pytest.approx(2**0.5)}
    assert over_seeds([1.0])["deviation"] is None
    assert mean_curve([[[0, 4.0], [10, 2.0]], [[0, 6.0]]]) == [[0, 5.0], [10, 2.0]]


@pytest.fixture
def labelled_corpus(tmp_path, train_corpus):
    """The small corpus with the column of genres that an evaluation reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "corpus"
    (folder / "tokenized").mkdir(parents=True)
    (folder / "processor").symlink_to(train_corpus / "processor")
    for file in (train_corpus / "tokenized").iterdir():
        table = pq.read_table(file)
        metadata = table.schema.metadata
        table = table.append_column("genre", pa.array(["Jazz"] * len(table)))
        pq.write_table(table.replace_schema_metadata(metadata), folder / "tokenized" / file.name)
    return folder


def test_all_steps_and_what_is_done_is_not_done_again(
    labelled_corpus, recipe, run_training, tmp_path, monkeypatch, capsys
):
    recipes = [recipe("plain"), recipe("ablation-full", model__config__fine_offsets=None)]
    output, steps = tmp_path / "ablations", []

    def in_this_process(step):
        program, arguments = step.program, list(step.arguments)
        steps.append((program, Path(arguments[-1]).parent.name if program != "train.py" else arguments[2]))
        if len(steps) == 3:
            raise KeyboardInterrupt
        if program == "train.py":
            config = Path(arguments[arguments.index("--config") + 1])
            assert run_training(config, *arguments[2:]) == 0
        else:
            assert evaluate_lm.main(arguments) == 0

    monkeypatch.setattr(run_ablations, "run_step", in_this_process)
    arguments = ["--corpus", str(labelled_corpus), "--split", "validation", "--seeds", "3", "4", "-o", str(output)]
    arguments += ["--recipes", *map(str, recipes), "--set", "train.max_updates=2", "train.eval_every=1"]
    assert run_ablations.main(arguments) == 130
    assert run_ablations.main(arguments) == 0
    assert len(steps) == 1 + 2 * 2 * 2  # the interrupted one, and each of two programs, models and seeds once
    report = json.loads((output / "ablations.json").read_text())
    assert list(report["models"]) == ["plain", "full"]
    assert report["songs"] == 7
    plain, full = report["models"].values()
    assert plain["difference"] == {"nats_per_token": 0.0, "standard_error": 0.0}
    for model in (plain, full):
        assert len(model["figures"]["bits_per_bar"]["each"]) == 2
        assert model["training"]["updates"]["each"] == [2, 2]
        assert [update for update, _ in model["curve"]] == [0, 1, 2]
    assert plain["figures"]["nats_per_token"]["deviation"] > 0  # the seeds differ
    assert full["difference"]["nats_per_token"] == pytest.approx(
        full["figures"]["nats_per_token"]["mean"] - plain["figures"]["nats_per_token"]["mean"]
    )
    assert (output / "ablations.png").is_file()
    assert "| full |" in (output / "ablations.md").read_text()
    assert yaml.safe_load((output / "full-seed4" / "config.yaml").read_text())["train"]["seed"] == 4
    capsys.readouterr()
    assert run_ablations.main([*arguments, "--set", "train.max_updates=3"]) == 1
    assert "holds runs with other overrides: choose another --output" in capsys.readouterr().err


def test_a_step_that_fails_names_its_command(tmp_path, monkeypatch):
    (tmp_path / "fails.py").write_text("import sys; sys.exit(7)")
    monkeypatch.setattr(comparison_runs, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"exit status 7 of: .*fails\.py --word"):
        comparison_runs.run_step(comparison_runs.Step("it", tmp_path / "done", "fails.py", ("--word",)))
