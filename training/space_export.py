"""A Space folder that starts wherever its requirements are installed, `partimento` not among them.

The folder of a Space in the checkout names `partimento` in its requirements.txt. The exported folder holds the Python
of the package itself, beside app.py, where `import partimento` finds it first; only what other people publish remains
to be installed. `checkpoints.txt` of a Space names the embedded checkpoints that it works with, as patterns, one in a
line; without it all go along.
"""

import re
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib import import_module, metadata
from pathlib import Path

from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from partimento.checkpoints import embedded_checkpoint, list_embedded
from partimento.training.checkpointing import replace_folder

PARTS = ("modeling", "tokenization", "pipelines", "checkpoints")
MODEL_FILE = "model_id.txt"  # what MODEL_ID is where the environment has none; read by composer_serving.py
CHECKPOINTS_FILE = "checkpoints.txt"
UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
RUN_FOLDERS = ("best", "final", "latest")  # of a run; the name of the run says more
PACKAGE = '''"""The part of partimento that this Space imports (Apache-2.0, see LICENSE)."""
'''
TORCH = """\
# torch without a version: ZeroGPU runs certain versions only (https://huggingface.co/docs/hub/spaces-zerogpu), and one
# that is installed already fits this line; where the build takes another, name one of that list here. On a CPU any from
# 2.6 on will do, and the line "--extra-index-url https://download.pytorch.org/whl/cpu" above gets the build without
# CUDA, which is smaller by gigabytes; not on ZeroGPU.
torch"""


def is_space(folder: Path) -> bool:
    """Whether a folder is the source of a Space: an app.py, and a README.md with the settings of one."""
    card = folder / "README.md"
    return (folder / "app.py").is_file() and card.is_file() and card.read_text(encoding="utf-8").startswith("---\n")


def export_space(
    source: Path, output: Path, model: str | None = None, checkpoints: Sequence[str] | None = None
) -> None:
    """Writes the folder beside `output` first and then puts it in its place.

    Args:
        model: what the Space works with unless MODEL_ID says otherwise: a model folder, which goes along, an embedded
            checkpoint, or a Hub id, which the Space then preloads.
        checkpoints: embedded checkpoints that go along; default: those of the Space's checkpoints.txt.

    Raises:
        ValueError: `source` is no Space, its settings are not valid, or there is no such model or checkpoint.
    """
    card = checked_card(source)
    if (source / "partimento").exists():
        raise ValueError(f"{source} holds partimento/ already: it is an exported Space, which can be uploaded as it is")
    if output.resolve() == source.resolve():
        raise ValueError(f"-o {output} is the Space itself: choose another folder")
    names = chosen_checkpoints(source, checkpoints)
    folder, model = model_to_embed(model)
    if folder is None and model in list_embedded() and model not in names:
        names.append(model)

    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for path in sorted(source.rglob("*")):
        place = path.relative_to(source)
        skipped = path.suffix in (".pyi", ".pyc") or any(part.startswith((".", "__pycache__")) for part in place.parts)
        if path.is_file() and not skipped and path.name != CHECKPOINTS_FILE:
            copy_file(path, partial / place)  # links of the checkout become files
    written = partial / "requirements.txt"
    written.write_text(space_requirements(written.read_text() if written.is_file() else "partimento[space]\n"))
    copy_package(partial / "partimento")
    for name in names:
        copy_model(embedded_checkpoint(name), partial / "partimento" / "checkpoints" / name)
    if model is not None:
        (partial / MODEL_FILE).write_text(f"{model}\n")
    if folder is not None:
        copy_model(folder, partial / "partimento" / "checkpoints" / str(model))
    elif model is not None and "/" in model:
        card.data["models"] = card.data["preload_from_hub"] = [model]
        (partial / "README.md").write_text(str(card), encoding="utf-8")
    replace_folder(partial, output)


def checked_card(source: Path) -> SpaceCard:
    """README.md of a Space, with the settings that a Gradio Space needs.

    Raises:
        ValueError: there is none, or a setting is missing or wrong.
    """
    try:
        card = SpaceCard((source / "README.md").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{source}: no Space without a README.md that begins with its settings ({error})") from None
    data = card.data.to_dict()
    if data.get("sdk") != "gradio":
        raise ValueError(f"{source / 'README.md'}: sdk is {data.get('sdk')!r}, not gradio")
    if not (source / str(data.get("app_file", "app.py"))).is_file():
        raise ValueError(f"{source / 'README.md'}: app_file {data.get('app_file')!r} is not there")
    if tuple(int(part) for part in re.findall(r"\d+", str(data.get("python_version", "3.10")))[:2]) < (3, 11):
        raise ValueError(f'{source / "README.md"}: add python_version: "3.12"; partimento needs 3.11 or newer')
    return card


def chosen_checkpoints(source: Path, asked: Sequence[str] | None) -> list[str]:
    """Names of the embedded checkpoints that go along.

    Raises:
        ValueError: one that was asked for is not there.
    """
    if asked is not None:
        return [embedded_checkpoint(name).name for name in asked]
    wanted = source / CHECKPOINTS_FILE
    patterns = wanted.read_text().split() if wanted.is_file() else ["*"]
    return [name for name in list_embedded() if any(fnmatch(name, pattern) for pattern in patterns)]


def model_to_embed(model: str | None) -> tuple[Path | None, str | None]:
    """(the folder to take along, or None; the value of MODEL_ID, or None).

    Raises:
        ValueError: `model` is no model folder, no embedded checkpoint and no Hub id.
    """
    if model is None or model in list_embedded():
        return None, model
    folder = Path(model)
    if folder.is_dir():
        needed = ("config.json", "model.safetensors", "processor_config.json")
        if missing := [name for name in needed if not (folder / name).is_file()]:
            raise ValueError(f"--model {model}: the folder has no {', '.join(missing)}")
        folder = folder.resolve()
        return folder, folder.parent.name if folder.name in RUN_FOLDERS else folder.name
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith("."):
        return None, model
    raise ValueError(
        f"--model {model}: no model folder, no Hub id (owner/model) and no embedded checkpoint "
        f"({', '.join(list_embedded())})"
    )


def copy_package(target: Path) -> None:
    """The Python of the package and the tables beside it, without the training and without weights."""
    target.mkdir(parents=True)
    (target / "__init__.py").write_text(PACKAGE)  # a package of its own: no other installation is mixed into it
    for part in PARTS:
        module = import_module(f"partimento.{part}")
        root = Path(str(module.__file__)).parent
        pattern = "*.py" if part == "checkpoints" else "**/*"
        for path in sorted(root.glob(pattern)):
            if path.is_file() and path.suffix in (".py", ".toml", ".json"):
                copy_file(path, target / part / path.relative_to(root))
    licences = [file for file in metadata.files("partimento") or [] if file.name == "LICENSE"]
    for file in licences[:1]:
        copy_file(Path(str(file.locate())), target / "LICENSE")


def copy_model(source: Path, target: Path) -> None:
    """The files of a model folder, but none that could run code when it is opened."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix not in UNSAFE:
            copy_file(path, target / path.name)


def copy_file(source: Path, target: Path) -> None:
    """Content only; readable by everybody."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


def space_requirements(text: str) -> str:
    """The requirements.txt of a Space with what partimento requires in the place of partimento."""
    lines: list[str] = []
    for line in text.splitlines():
        match = re.match(r"\s*partimento\s*(?:\[([\w\s,-]*)\])?\s*(?:[<>=!~@;#].*)?$", line)
        if match:
            lines += package_requirements({extra.strip() for extra in (match[1] or "").split(",")})
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def package_requirements(extras: set[str]) -> list[str]:
    """What an installation of partimento with these extras needs, torch without a version."""
    needed: list[str] = []
    for text in metadata.requires("partimento") or []:
        requirement = Requirement(text)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if canonicalize_name(requirement.name) == "torch":
            needed.insert(0, TORCH)
        elif canonicalize_name(requirement.name) != "partimento":
            requirement.marker = None
            needed.append(str(requirement))
    return needed
