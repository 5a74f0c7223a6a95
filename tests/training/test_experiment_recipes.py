"""Recipes of the experiments: every one is parsed by its program, and the command line wins."""

import importlib
from pathlib import Path

import pytest

import partimento.training
from partimento.training import character_experiment, latent_lab
from partimento.training.experiment_recipes import parse_with_recipe, read_recipe

FOLDER = Path(partimento.training.__path__[0]) / "recipes" / "experiments"
RECIPES = sorted(FOLDER.glob("*.yaml"))
OWN = {
    "character_experiment": ["--text", "text.txt"],
    "audio_experiment": ["--wav", "song.wav"],
    "note_experiment": ["--midi", "songs"],
}


def parse(recipe: Path, *words: str):
    program = next(line.split()[1] for line in recipe.read_text().splitlines() if line.startswith("program:"))
    module = importlib.import_module(f"partimento.training.{program}")
    own = [*OWN.get(program, []), "-o", "out", *words]
    return parse_with_recipe(module.make_parser(), ["--recipe", str(recipe), *own], program)


def test_there_are_recipes():
    assert {"characters-published", "clipping-demo", "audio-published", "notes-published", "lag-recall"} <= {
        recipe.stem for recipe in RECIPES
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_parsed_by_its_program(recipe):
    assert parse(recipe).output == Path("out")
    assert f"--recipe training/recipes/experiments/{recipe.name}" in recipe.read_text()  # the command that runs it


def test_published_settings():
    options = parse(FOLDER / "characters-published.yaml")
    assert (options.steps, options.clip, options.sample_symbols) == (500_000, ["none", "5"], 5_000)
    assert options.cells == ["rnn_tanh", "gru_thesis", "lstm"]
    assert parse(FOLDER / "clipping-demo.yaml").clip == ["none", "1", "5"]
    assert parse(FOLDER / "notes-published.yaml").stride == 1
    options = parse(FOLDER / "dense-vae-mnist.yaml", "--data", "mnist.npz")
    assert (options.command, options.dims, options.binarize) == ("sweep_latent", [2, 5, 10, 20, 50], "none")


def test_the_command_line_wins(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("program: character_experiment\nsteps: 70\nclip: [null, 2.5]\nunit: byte\n")
    words = ["--recipe", str(recipe), "--steps", "8", "--text", "a", "-o", "b"]
    options = parse_with_recipe(character_experiment.make_parser(), words, "character_experiment")
    assert (options.steps, options.clip, options.unit, options.recipe) == (8, ["none", "2.5"], "byte", recipe)
    lab = FOLDER / "dense-vae-digits.yaml"
    with pytest.raises(SystemExit):  # dims is no option of classify
        parse_with_recipe(latent_lab.make_parser(), ["classify", "--recipe", str(lab), "-o", "b"], "latent_lab")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("program: lag_recall\n", "program is 'lag_recall', but this is character_experiment"),
        ("- 1\n", "program is None"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_is_no_recipe_of_the_program_is_refused(content, message, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe, "character_experiment")
    with pytest.raises(SystemExit):
        character_experiment.main(["--recipe", str(recipe), "--text", "a", "-o", str(tmp_path / "out")])
    assert message in " ".join(capsys.readouterr().err.split())
