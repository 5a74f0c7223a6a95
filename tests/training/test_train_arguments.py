"""Configuration: types, unknown keys, overrides, and every recipe of the package."""

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

import partimento.training
from partimento.training.arguments import load_arguments, parse_arguments
from partimento.training.model_setup import build_config

TRAINING = Path(partimento.training.__path__[0])
RECIPES = sorted((TRAINING / "recipes").glob("*.yaml"))


def test_recipes_are_found():
    assert {"museformer-small-open", "museformer-paper-lakh", "museformer-thesis-500"} <= {r.stem for r in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses_and_builds_its_configuration(recipe, train_processor):
    arguments = load_arguments(recipe)
    reads_grids = arguments.grids.roll or arguments.model.model_type == "musicvae"  # no tokens
    config = build_config(arguments.model, None if reads_grids else train_processor)
    assert reads_grids or config.vocab_size == train_processor.model_config_kwargs()["vocab_size"]
    assert arguments.train.output == f"runs/{recipe.stem}"
    for key, value in arguments.model.config.items():
        found = getattr(config, key)
        assert list(found) == value if isinstance(value, list) else found == value


def test_published_settings_are_in_the_paper_recipe():
    arguments = load_arguments(TRAINING / "recipes" / "museformer-paper-lakh.yaml")
    train = arguments.train
    assert (train.learning_rate, train.warmup_updates, train.lr_schedule) == (5e-4, 16000, "inverse_sqrt")
    assert (train.betas, train.epsilon, train.weight_decay, train.decay_all) == ([0.9, 0.98], 1e-9, 0.01, True)
    assert (arguments.data.crop, arguments.data.crop_length) == ("head", 15360)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": {"learning_rte": 1}}, "unknown key 'train.learning_rte': did you mean 'learning_rate'"),
        ({"trian": {}}, "unknown key 'trian': did you mean 'train'"),
        ({"train": {"max_updates": "many"}}, "train.max_updates is 'many': expected int"),
        ({"train": {"max_updates": True}}, "train.max_updates is True: expected int"),
        ({"data": {"crop": "tail"}}, "data.crop is 'tail'"),
        ({"data": {"transpose": 3}}, "data.transpose is 3: expected a list"),
        ({"data": {"transpose": [5, -5]}}, r"data.transpose is \[5, -5\]"),
        ({"data": {"crop_length": 9000}}, "exceeds data.max_tokens_per_batch"),
        ({"data": {"head_probability": 1.5}}, "data.head_probability is 1.5"),
        ({"model": 3}, "model: expected a mapping"),
        ({"schedules": {"beta": {"kind": "ramp"}}}, "schedules.beta.kind is 'ramp'"),
        ({"schedules": {"beta": {"kind": "linear", "end": 1}}}, "schedules.beta: "),
        ({"train": {"max_updates": 10, "warmup_updates": 11}}, "exceed"),
    ],
)
def test_bad_configuration_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(content)


def test_unknown_model_settings_are_refused(train_processor):
    arguments = parse_arguments({"model": {"config": {"hiden_size": 3}}})
    with pytest.raises(ValueError, match=r"model.config.hiden_size.*hidden_size"):
        build_config(arguments.model, train_processor)
    arguments = parse_arguments({"model": {"model_type": "museforme"}})
    with pytest.raises(ValueError, match="did you mean 'museformer'"):
        build_config(arguments.model, train_processor)


def test_yaml_quirks(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("train: {learning_rate: 5e-4, mixed_precision: no, max_updates: 1.0e+3}\n", encoding="utf-8")
    train = load_arguments(path).train
    assert (train.learning_rate, train.mixed_precision, train.max_updates) == (5e-4, "no", 1000)


def test_overrides(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("train: {max_updates: 3}\n", encoding="utf-8")
    overrides = ["train.max_updates=7", "model.config.hidden_size=64", "data.transpose=[]", "train.output=a=b"]
    arguments = load_arguments(path, overrides)
    assert arguments.train.max_updates == 7
    assert arguments.model.config == {"hidden_size": 64}
    assert arguments.data.transpose == []
    assert arguments.train.output == "a=b"
    with pytest.raises(ValueError, match=r"expected group\.key=value"):
        load_arguments(path, ["max_updates=7"])


def test_broken_yaml_is_named(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("train: {max_updates: 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"recipe\.yaml: not valid YAML.*line"):
        load_arguments(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"--set data\.transpose=\[1, 2: not valid YAML"):
        load_arguments(path, ["data.transpose=[1, 2"])


def test_resolved_configuration_reads_back(tmp_path):
    arguments = load_arguments(RECIPES[0])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(arguments.to_dict()), encoding="utf-8")
    assert load_arguments(path) == arguments


@pytest.mark.parametrize("path", sorted((TRAINING / "launch_configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_launch_configs_are_read_by_accelerate(path):
    assert load_config_from_file(str(path)).num_processes >= 1


def test_no_file_hides_a_library(monkeypatch):
    # Starting training/train.py puts training/ first on sys.path: a file datasets.py there would replace the library.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry or ".").resolve() != TRAINING])
    names = {path.stem for path in TRAINING.iterdir() if not path.name.startswith("_")}
    assert [name for name in sorted(names) if importlib.util.find_spec(name) is not None] == []
