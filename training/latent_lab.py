"""A laboratory for latent spaces: small dense VAEs on bars of music or images, measured on held-out items.

    python training/latent_lab.py sweep_latent --data digits -o runs/lab-digits
    python training/latent_lab.py classify --data drums --grids grids --seeds 0 1 2 -o runs/lab-drums
    python training/latent_lab.py plot_latent --model runs/musicvae-mel-2bar-small/best --grids grids -o runs/lab-mel

The experiments are those of F. Arribas Jara, "Aprendizaje no-supervisado con modelos generativos profundos" (UAM,
2018), with held-out figures in place of training figures, several seeds, and what he names as future work:

    sweep_latent          held-out ELBO, reconstruction, KL, active dimensions by latent size; best size by validation
    classify              softmax regression on codes (frozen, fine_tune, from_scratch) against the raw cells
    plot_latent           scatter of posterior means, coloured by label
    plot_manifold         lattice of decoded codes, as picture and MIDI
    reconstruction_strip  the same items at epochs 0, 1, 10, 20, 40, 50
    samples               draws of the prior by latent size
    denoise               repair of dropped, moved and masked notes, against copying
    restore               missing cells: repeated encoding and decoding, or an optimised code
    inference_gap         ELBO as the encoder gives it, optimised item by item, and IWAE
    explore               sliders for the dimensions of a model, in the browser

Every command writes <command>.json, .md and, where there is something to see, .png into --output. Models are trained
on the way and kept in <output>/models; a command that finds them there does not train again, and one that was
interrupted goes on. `--model FOLDER` takes a trained model instead, of this laboratory, of training/train.py, or (for
plot_latent, plot_manifold, classify and explore) a MusicVAE.

One process on the first GPU, or on the CPU where there is none (ACCELERATE_USE_CPU=true: always). On a CPU use
OMP_NUM_THREADS=1: the matrices are small. COMMAND --help lists the options of a command.
"""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from partimento.training import latent_commands as commands
from partimento.training.experiment_recipes import parse_with_recipe
from partimento.training.latent_classify import MODES
from partimento.training.latent_damage import DAMAGES, HIDING
from partimento.training.latent_data import SPLITS, LabItems, add_data_options, read_data
from partimento.training.latent_models import DenseLatents, Latents, MusicLatents, load_latents
from partimento.training.latent_training import Fit, FitSettings
from partimento.training.reports import library_versions, write_report


class Lab:
    """Data, device and output folder of a command, and the models that it trains or is given.

    Raises:
        ValueError: data or model cannot be used.
    """

    def __init__(self, options: argparse.Namespace, command: Sequence[str]):
        self.options, self.command = options, command
        accelerator = Accelerator()
        if accelerator.num_processes > 1:
            raise ValueError(
                f"{accelerator.num_processes} processes were started, but the laboratory is one: leave out the "
                "launcher, and for several devices give each command its own --dims, --seeds and --output"
            )
        self.device = accelerator.device
        self.output = Path(options.output)
        self.given = load_latents(options.model, self.device) if options.model else None
        self.data = read_data(options, self.given.processor if self.given else None)
        if isinstance(self.given, DenseLatents) and tuple(self.given.model.config.input_shape) != self.data.shape:
            raise ValueError(
                f"--model {options.model} reads items of {tuple(self.given.model.config.input_shape)}, but --data "
                f"{self.data.name} has {self.data.shape}"
            )

    @property
    def is_dense(self) -> bool:
        return not isinstance(self.given, MusicLatents)

    @property
    def config_likelihood(self) -> str:
        """Likelihood of the models that are trained."""
        return self.options.likelihood or self.data.likelihood

    @property
    def label_note(self) -> str:
        """What is to be known about the labels."""
        if self.data.processor is None:
            return ""
        return (
            "The label is the genre of the song a bar comes from, for genres with enough bars in every split. Genres "
            "differ in their sources too, so part of what is told apart may be the source."
        )

    def path(self, name: str) -> Path:
        """A file in the output folder."""
        self.output.mkdir(parents=True, exist_ok=True)
        return self.output / name

    def settings(self, **changes) -> FitSettings:
        """What the options say about a run, with changes."""
        options = self.options
        values = {
            "latent_size": options.latent_size,
            "seed": options.seeds[0],
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "learning_rate": options.learning_rate,
            "hidden_sizes": tuple(options.hidden_sizes),
            "beta": options.beta,
            "free_bits": options.free_bits,
            "num_samples": options.num_samples,
            "likelihood": options.likelihood,
            "bias_init": options.bias_init,
            "binarize": "dynamic" if self.data.facts.get("binarize") == "dynamic" else "none",
        }
        return FitSettings(**(values | changes))

    def fits(self, settings: Sequence[FitSettings]) -> list[Fit]:
        """The runs, trained where they are not done.

        Raises:
            ValueError: a run of that name has other settings, or `--model` was given to a command that trains.
        """
        if self.given is not None:
            raise ValueError(f"{self.options.command} trains its own models: leave out --model")
        fits = [Fit(self.data, one, self.output / "models" / one.name, self.device) for one in settings]
        missing = [fit for fit in fits if not fit.record.done]
        total = sum(fit.settings.epochs for fit in missing)
        with tqdm(total=total, unit="epoch", desc="training", mininterval=2, disable=not missing) as bar:
            for fit in missing:
                fit.run(save_every=self.options.save_every, progress=bar)
        return fits

    def latents(self) -> Latents:
        """The model given, or one trained with the options."""
        first = self.options.seeds[0]
        return self.latents_of_seeds([first])[first]

    def latents_of_seeds(self, seeds: Sequence[int]) -> dict[int, Latents]:
        """For every seed a model trained with the options; the model given, where one is."""
        if self.given is not None:
            return dict.fromkeys(seeds, self.given)
        fits = self.fits([self.settings(seed=seed) for seed in seeds])
        return {
            fit.settings.seed: DenseLatents(fit.model(), self.data.processor, str(fit.folder / "model")) for fit in fits
        }

    def music_features(self, items: LabItems, mode: str) -> LabItems:
        """For a MusicVAE: its codes of items (`frozen`), or the cells of their grids (`raw`)."""
        assert isinstance(self.given, MusicLatents)
        values = self.given.codes(items.values) if mode == "frozen" else self.given.cells(items.values)
        return LabItems(values, items.labels)

    def complete(self, report: dict[str, Any]) -> dict[str, Any]:
        """A report with what it was made from."""
        facts = {
            "command": f"python training/latent_lab.py {shlex.join(self.command)}",
            "data": self.data.describe(),
            "model_settings": None if self.given else dataclasses.asdict(self.settings()),
            "libraries": library_versions(),
        }
        return facts | report

    def write(self, name: str, report: dict[str, Any], text: str) -> None:
        """Write a report as <name>.json and <name>.md, and print the text."""
        report = self.complete(report)
        text = f"{text.rstrip()}\n\n`{report['command']}`\n"
        write_report(self.path(f"{name}.json"), report, text)
        print(text)


def add_model_options(parser: argparse.ArgumentParser, latent_size: int) -> None:
    """Options of the models."""
    group = parser.add_argument_group("models")
    group.add_argument("--model", metavar="FOLDER", help="a trained model (folder or Hub id) in place of a new one")
    group.add_argument("--latent-size", type=int, default=latent_size, metavar="J", help=f"default {latent_size}")
    group.add_argument("--hidden-sizes", type=int, nargs="*", default=[500, 500], metavar="N", help="default 500 500")
    group.add_argument("--epochs", type=int, default=50, help="passes over the training items (default 50)")
    group.add_argument("--batch-size", type=int, default=100, help="items of an update (default 100)")
    group.add_argument("--learning-rate", type=float, default=1e-3, help="of the optimiser (default 0.001)")
    group.add_argument("--beta", type=float, default=1.0, help="weight of the KL in the loss; never in the figures")
    group.add_argument("--free-bits", type=float, default=0.0, help="KL of an item that costs nothing, in bits")
    group.add_argument("--num-samples", type=int, default=1, help="draws of z per item and update")
    group.add_argument(
        "--likelihood", choices=("", "bernoulli", "categorical", "gaussian"), default="", help="default: what fits"
    )
    group.add_argument(
        "--bias-init", choices=("zeros", "thesis"), default="zeros", help="zeros (default), or thesis: N(0, 1 / units)"
    )
    group.add_argument("--seeds", type=int, nargs="+", default=[0], help="default 0; sweep_latent and classify: 0 1 2")
    group.add_argument("--save-every", type=int, default=10, metavar="EPOCHS", help="how often a run is saved")


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(function: Callable, latent_size: int = 20) -> argparse.ArgumentParser:
        own = subparsers.add_parser(
            function.__name__, help=function.__doc__.splitlines()[0], description=function.__doc__
        )
        own.set_defaults(function=function)
        own.add_argument("-o", "--output", type=Path, required=True, help="folder of models and reports")
        own.add_argument("--threads", type=int, default=1, help="CPU threads")
        add_data_options(own)
        add_model_options(own, latent_size)
        return own

    sweep = add(commands.sweep_latent)
    sweep.add_argument("--dims", type=int, nargs="+", default=[2, 5, 10, 20, 50], help="default 2 5 10 20 50")
    sweep.set_defaults(seeds=[0, 1, 2])
    classifier = add(commands.classify, latent_size=50)
    classifier.add_argument("--modes", nargs="+", default=list(MODES), help=f"default {' '.join(MODES)}")
    classifier.add_argument(
        "--shares", type=float, nargs="+", default=[0.01, 0.05, 0.1, 1.0], help="of the labels; default .01 .05 .1 1"
    )
    classifier.add_argument("--updates", type=int, default=2750, help="of a classifier; default 2750, as published")
    classifier.add_argument("--classifier-learning-rate", type=float, default=0.1, help="of plain SGD; default 0.1")
    classifier.set_defaults(seeds=[0, 1, 2])
    scatter = add(commands.plot_latent, latent_size=2)
    scatter.add_argument(
        "--split", choices=SPLITS, default="validation", help="items that are drawn; default validation"
    )
    manifold = add(commands.plot_manifold, latent_size=2)
    manifold.add_argument("--size", type=int, default=20, help="codes per side; default 20")
    manifold.add_argument(
        "--manifold-items", type=int, default=5000, help="training items that give the principal plane"
    )
    add(commands.reconstruction_strip)
    draws = add(commands.samples)
    draws.add_argument("--dims", type=int, nargs="+", default=[2, 5, 10, 20, 50], help="default 2 5 10 20 50")
    draws.add_argument("--count", type=int, default=10, help="draws per latent size")
    repair = add(commands.denoise)
    repair.add_argument(
        "--damage", nargs="+", choices=DAMAGES, default=list(DAMAGES), help=f"default {' '.join(DAMAGES)}"
    )
    repair.add_argument("--damage-share", type=float, default=0.2, help="of the notes or steps; default 0.2")
    missing = add(commands.restore)
    missing.add_argument("--hide", nargs="+", choices=HIDING, default=list(HIDING), help=f"default {' '.join(HIDING)}")
    missing.add_argument("--hide-share", type=float, default=0.3, help="of the cells or steps; default 0.3")
    missing.add_argument("--passes", type=int, default=20, help="of encoding and decoding; default 20")
    missing.add_argument("--steps", type=int, default=200, help="of the optimiser; default 200")
    gap = add(commands.inference_gap)
    gap.add_argument("--split", choices=SPLITS, default="test", help="items that are measured; default test")
    gap.add_argument("--items", type=int, default=200, help="default 200")
    gap.add_argument("--importance-samples", type=int, default=500, metavar="K", help="default 500")
    gap.add_argument("--steps", type=int, default=300, help="of the optimiser; default 300")
    page = add(commands.explore)
    page.add_argument("--split", choices=SPLITS, default="validation", help="of the items to start from")
    page.add_argument("--sliders", type=int, default=12, help="dimensions that get one, the liveliest first")
    page.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    page.add_argument("--port", type=int, default=7860, help="of the page (default 7860)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    options = parse_with_recipe(make_parser(), argv, "latent_lab")
    torch.set_num_threads(options.threads)
    disable_progress_bar()  # of every saved model; the runs have their own
    try:
        options.function(Lab(options, sys.argv[1:] if argv is None else list(argv)))
    except (ValueError, OSError) as error:
        print(f"latent_lab.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
