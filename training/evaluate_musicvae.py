"""Measure a MusicVAE on held-out songs, once, and write a report.

    python training/evaluate_musicvae.py --model runs/musicvae-mel-2bar-small/best --corpus grids -o report.json

The report (JSON and Markdown) has per track: teacher-forced and free-running accuracy, split into steps with an event
and steps without, beside a baseline that always says "no event"; F1 of notes; nats per step; and KL bits, in total and
per dimension, active units, the price of shuffled codes, overlap of prior samples with held-out music, figures of 100
interpolations (latent_paths.py) and decoding time. Pictures beside it: `_latent.png`, `_paths.png`, `_strips.png`
(interpolations), `_reconstructions.png` (music above, greedy decoding of its code below) and `_samples.png`. With
--write-latent-info the model's folder also gets latent_info.json (KL, quantiles and principal directions of the
posterior means) for programs that show the latent space. A few minutes on one core for 2,048 windows of two bars.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel

from partimento.modeling import MusicVAEModel
from partimento.modeling.musicvae.decoder_musicvae import StepDecoder, choose_ids
from partimento.tokenization import MusicVAEProcessor
from partimento.training.benchmark_models import clock
from partimento.training.checkpointing import write_atomically
from partimento.training.collapse_monitor import latent_figures
from partimento.training.grid_arguments import GridArguments
from partimento.training.grid_data import GridCorpus
from partimento.training.grid_metrics import compare, overlap, statistics
from partimento.training.latent_paths import MIXTURE, PATHS, NGramCost, interpolation_figures
from partimento.training.reports import library_versions, markdown_table, report_paths, write_report
from partimento.training.token_data import Batch

MODES = {
    "free_argmax_mu": {"temperature": 0.0, "sample": False},
    "free_argmax_z": {"temperature": 0.0, "sample": True},
    "free_t1_mu": {"temperature": 1.0, "sample": False},
    "free_t1_z": {"temperature": 1.0, "sample": True},
}


class Evaluation:
    """Figures of one model on some windows.

    Args:
        windows: `[n, tracks, steps]`, ids from 0 in each track.
    """

    def __init__(self, model: Any, processor: MusicVAEProcessor, windows: np.ndarray, seed: int = 0, rows: int = 128):
        self.model, self.processor, self.windows = model.eval(), processor, windows
        self.rows, self.seed = rows, seed
        self.ids = torch.from_numpy(processor.join_tracks(list(windows.transpose(1, 0, 2)))).to(model.device)
        self.batches = self.ids.split(rows)
        self.generator = torch.Generator(model.device).manual_seed(seed)

    def tracks_of(self, ids: torch.Tensor) -> list[np.ndarray]:
        return self.processor.split_tracks(ids)

    def by_track(self, ids: torch.Tensor) -> dict[str, dict]:
        """Figures of each track of reconstructions `[n, N]`."""
        names, found = self.processor.tracks, self.tracks_of(ids)
        return {name: compare(self.windows[:, i], found[i], name == "drums") for i, name in enumerate(names)}

    def reconstruction(self) -> dict[str, dict[str, dict]]:
        """Mode -> track -> figures; `always_no_event` is the baseline."""
        found: dict[str, list[torch.Tensor]] = {name: [] for name in ("teacher_forced", *MODES)}
        found["reference_sampling"] = []
        for ids in tqdm(self.batches, desc="reconstruction", disable=not sys.stderr.isatty()):
            with torch.no_grad():
                logits = self.model(ids).logits
            found["teacher_forced"].append(
                choose_ids(logits.flatten(0, 1), self.model.config, 0.0).reshape(len(ids), -1)
            )
            found["reference_sampling"].append(self.behind_samples(ids))
            for name, mode in MODES.items():
                z = self.model.encode(ids, mode["sample"], self.generator).z
                found[name].append(self.model.decode(z, mode["temperature"], generator=self.generator))
        silence = torch.from_numpy(self.processor.join_tracks(list(np.zeros_like(self.windows).transpose(1, 0, 2))))
        result = {name: self.by_track(torch.cat(parts)) for name, parts in found.items()}
        return {"always_no_event": self.by_track(silence), **result}

    @torch.no_grad()
    def behind_samples(self, ids: torch.Tensor) -> torch.Tensor:
        """The likeliest ids `[B, N]` of each step behind a history of samples at temperature 1.

        What the reference implementation reports as "sampling" accuracy: neither is ever emitted together.
        """
        z = self.model.encode(ids, True, self.generator).z
        steps, result = StepDecoder(self.model.decoder, self.model.decoder.segment_latents(z)), []
        for _ in range(self.model.config.num_steps):
            result.append(choose_ids(steps.logits(), self.model.config, 0.0))
            steps.push(choose_ids(steps.logits(), self.model.config, 1.0, generator=self.generator))
        return torch.stack(result, 1).flatten(1)

    def likelihood(self, num_importance: int = 0) -> dict[str, Any]:
        """Nats per sequence and step: reconstruction at mu, evidence bound, and the importance-weighted bound."""
        nll = [self.model.reconstruction_nll(ids) for ids in self.batches]
        elbo = torch.cat([self.model.elbo(ids, 1, self.generator) for ids in self.batches])
        per_track = torch.cat([part.per_track for part in nll]).double().mean(0) / self.model.config.num_steps
        result = {
            "reconstruction_nats": float(torch.cat([part.per_sequence for part in nll]).double().mean()),
            "nats_per_step": dict(zip(self.processor.tracks, map(float, per_track))),
            "elbo_nats": float(elbo.double().mean()),
        }
        if num_importance:
            bound = torch.cat([self.model.iwae(ids, num_importance, self.generator) for ids in self.batches])
            result[f"iwae_{num_importance}_nats"] = float(bound.double().mean())
        return result

    def latent(self) -> dict[str, Any]:
        """KL, active units and the price of shuffled codes."""
        batches = (Batch({"input_ids": ids}, len(ids), ids.numel(), 0, []) for ids in self.batches)
        return latent_figures(self.model, batches, self.model.device)

    def prior_samples(self, temperature: float = 0.5) -> dict[str, dict[str, float]]:
        """Track -> overlap of histograms of as many samples of the prior as there are windows."""
        parts = [self.model.sample(len(ids), temperature, generator=self.generator) for ids in self.batches]
        result = {}
        for i, (name, found) in enumerate(zip(self.processor.tracks, self.tracks_of(torch.cat(parts)))):
            is_drums = name == "drums"
            result[name] = overlap(statistics(self.windows[:, i], is_drums), statistics(found, is_drums))
        return result

    def interpolation(self, cost: NGramCost | None = None, num_pairs: int = 100) -> tuple[dict[str, Any], np.ndarray]:
        """Figures of paths between held-out windows, and the music of the straight ones; see `latent_paths`."""
        mu = torch.cat([self.model.encode(ids).mu for ids in self.batches])
        order = torch.randperm(len(mu), generator=torch.Generator().manual_seed(self.seed))
        num_pairs = min(num_pairs, len(mu) // 2)
        ends = mu[order[:num_pairs]], mu[order[num_pairs : 2 * num_pairs]]
        report, music = interpolation_figures(self.model, self.processor, *ends, cost=cost, seed=self.seed)
        report["ngram_nats_of_music"] = None if cost is None else float(cost(self.windows).mean())
        return report, music

    def decode_latency(self, repeats: int = 20) -> float:
        """Median milliseconds of decoding one vector: CPU time with one thread on a CPU, which a busy machine bears."""
        z = torch.randn(1, self.model.config.z_size, device=self.model.device, generator=self.generator)
        times = []
        for _ in range(repeats):
            start = clock(self.model.device)
            self.model.decode(z)
            times.append(clock(self.model.device) - start)
        return 1000 * float(np.median(times))

    def latent_info(self, num_directions: int = 8) -> dict[str, Any]:
        """Per dimension: KL bits and quantiles of mu; and the principal directions of mu, largest first."""
        posteriors = [self.model.encode(ids) for ids in self.batches]
        mu, sigma = (torch.cat([getattr(p, name) for p in posteriors]).double().cpu() for name in ("mu", "sigma"))
        bits = (0.5 * (mu**2 + sigma**2 - 1 - 2 * sigma.log())).mean(0) / math.log(2)
        _, singular, directions = torch.linalg.svd(mu - mu.mean(0), full_matrices=False)
        variance = singular**2 / max(1, len(mu) - 1)
        quantiles = torch.quantile(mu, torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double(), dim=0)
        return {
            "windows": len(mu),
            "kl_bits_per_dim": bits.tolist(),
            "order_by_kl": bits.argsort(descending=True).tolist(),
            "mean_sigma": sigma.mean(0).tolist(),
            "mu_mean": mu.mean(0).tolist(),
            "mu_quantiles": {"levels": [0.05, 0.25, 0.5, 0.75, 0.95], "values": quantiles.tolist()},
            "pca": {
                "directions": directions[:num_directions].tolist(),
                "standard_deviations": variance[:num_directions].sqrt().tolist(),
                "explained": (variance[:num_directions] / variance.sum()).tolist(),
            },
        }

    def examples(self, num: int = 8) -> tuple[np.ndarray, np.ndarray]:
        """Held-out windows and their reconstructions `[2, num, tracks, steps]`, and `[num, ...]` draws of the prior."""
        rows = np.linspace(0, len(self.windows) - 1, num).round().astype(int)
        found = np.stack(self.tracks_of(self.model.decode(self.model.encode(self.ids[rows]).mu)), 1)
        samples = self.model.sample(num, 0.5, generator=torch.Generator().manual_seed(self.seed))
        return np.stack([self.windows[rows], found]), np.stack(self.tracks_of(samples), 1)


def evaluate(
    evaluation: Evaluation, num_importance: int = 0, cost: NGramCost | None = None, pictures: Path | None = None
) -> dict[str, Any]:
    """The whole report of a model; `pictures` is the path that the names of the pictures begin with."""
    interpolation, strips = evaluation.interpolation(cost)
    latent = evaluation.latent()
    if pictures is not None:
        draw(evaluation, pictures, latent, interpolation, strips)
    return {
        "reconstruction": evaluation.reconstruction(),
        "likelihood": evaluation.likelihood(num_importance),
        "latent": latent,
        "prior_overlap": evaluation.prior_samples(),
        "interpolation": interpolation,
        "parameters": evaluation.model.num_parameters(),
        "decode_milliseconds": evaluation.decode_latency(),
    }


def draw(
    evaluation: Evaluation, base: Path, latent: dict[str, Any], interpolation: dict[str, Any], strips: np.ndarray
) -> None:
    """The pictures; their names are that of `base` and a word."""
    from partimento.training.musicvae_plots import plot_latent, plot_paths, plot_strips

    def name(word: str) -> Path:
        return base.with_name(f"{base.stem}_{word}.png")

    processor = evaluation.processor
    reconstructions, samples = evaluation.examples()
    weights = [f"{weight:.2f}" for weight in np.linspace(0, 1, len(strips))]
    plot_latent(latent["kl_bits_per_dim"], name("latent"))
    plot_paths(interpolation, name("paths"))
    plot_strips(strips, processor, name("strips"), weights)
    plot_strips(reconstructions.transpose(1, 0, 2, 3), processor, name("reconstructions"))
    plot_strips(samples[:, None], processor, name("samples"))


def to_markdown(report: dict[str, Any]) -> str:
    """Tables for people."""
    lines = [
        f"# {report['model']}\n",
        f"{report['windows']:,} windows of {report['songs']:,} songs ({report['split']}).\n",
    ]
    for track in report["tracks"]:
        rows = report["reconstruction"]
        columns = list(next(iter(rows.values()))[track])
        lines.append(f"## {track}\n")
        lines.append(
            markdown_table(["mode", *columns], [[m, *(v[track][c] for c in columns)] for m, v in rows.items()])
        )
    figures = {
        **{f"nats per step, {name}": value for name, value in report["likelihood"]["nats_per_step"].items()},
        **{name.replace("_", " "): v for name, v in report["likelihood"].items() if isinstance(v, float)},
        **{name.replace("_", " "): v for name, v in report["latent"].items() if not isinstance(v, list)},
        "parameters": report["parameters"],
        "milliseconds to decode one": report["decode_milliseconds"],
    }
    for track, values in report["prior_overlap"].items():
        figures |= {f"prior overlap, {track}, {name.replace('_', ' ')}": value for name, value in values.items()}
    lines.append(markdown_table(["figure", "value"], list(figures.items())))
    lines += [f"## interpolation, {report['interpolation']['pairs']} pairs\n", path_tables(report["interpolation"])]
    return "\n".join(lines)


def path_tables(paths: dict[str, Any]) -> str:
    """Distance, onsets and n-gram cost along the paths."""
    tables = []
    for key in ("distance_from_start", "onsets", "ngram_nats"):
        if paths["linear"][key] is None:
            continue
        points = len(paths["linear"][key])
        header = [key.replace("_", " "), *(f"{i / (points - 1):.3f}" for i in range(points))]
        tables.append(markdown_table(header, [[m.replace("_", " "), *paths[m][key]] for m in (*PATHS, MIXTURE)]))
    rows = [[m.replace("_", " "), paths[m]["largest_jump"]] for m in (*PATHS, MIXTURE)]
    tables.append(markdown_table(["", "largest jump between neighbours"], rows))
    if paths["ngram_nats_of_music"] is not None:
        tables.append(f"The held-out music itself costs {paths['ngram_nats_of_music']:.1f} nats a window.\n")
    return "\n".join(tables)


def load(folder: str) -> tuple[MusicVAEModel, MusicVAEProcessor]:
    """Model in fp32 and processor of a folder or Hub id.

    Raises:
        ValueError: it holds another kind of model.
    """
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    if not isinstance(model, MusicVAEModel):
        raise ValueError(f"--model {folder}: holds a {type(model).__name__}, not a MusicVAE")
    return model.eval(), MusicVAEProcessor.from_pretrained(folder)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which windows are read."""
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--corpus", required=True, help="folder made by prepare_grids.py")
    parser.add_argument("--windows", type=int, default=2048, help="windows spread over the split; 0: all")
    parser.add_argument("--min-onsets", type=int, default=3, help="fewest onsets of each track")
    parser.add_argument("--max-dropped-share", type=float, default=0.2, help="of a melodic track's notes")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")


def grid_arguments(options: argparse.Namespace) -> GridArguments:
    """What the options say about windows."""
    return GridArguments(options.corpus, min_onsets=options.min_onsets, max_dropped_share=options.max_dropped_share)


def read_windows(
    options: argparse.Namespace, split: str, processor: MusicVAEProcessor, seen: GridCorpus | None = None
) -> GridCorpus:
    """The windows of a split, thinned to `--windows`."""
    corpus = GridCorpus.from_parquet(grid_arguments(options), split, processor, seen)
    if options.windows and options.windows < len(corpus):
        chosen = np.unique(np.linspace(0, len(corpus) - 1, options.windows).round().astype(int))
        corpus = GridCorpus(corpus.windows[chosen], corpus.songs[chosen], corpus.names, corpus.counts)
    return corpus


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument(
        "--split",
        default="validation",
        choices=("train", "validation", "test"),
        help="songs that are measured; take test once, at the end (default validation)",
    )
    parser.add_argument("--keep-training-windows", action="store_true", help="also windows that occur in training")
    parser.add_argument("--importance-samples", type=int, default=0, help="K of the importance-weighted bound")
    parser.add_argument("--write-latent-info", action="store_true", help="write latent_info.json into the model folder")
    parser.add_argument("--no-pictures", action="store_true", help="write the two reports only")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file; Markdown is written beside it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; return the exit status."""
    options = make_parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        report_paths(options.output)
        model, processor = load(options.model)
        training = GridCorpus.from_parquet(grid_arguments(options), "train", processor)
        seen = None if options.split == "train" or options.keep_training_windows else training
        corpus = read_windows(options, options.split, processor, seen)
    except (OSError, ValueError) as error:
        print(f"evaluate_musicvae.py: {error}", file=sys.stderr)
        return 2
    evaluation = Evaluation(model, processor, corpus.windows, options.seed)
    report = {
        "model": options.model,
        "split": options.split,
        "tracks": processor.tracks,
        "windows": len(corpus),
        "training_windows": len(training),
        "songs": len(np.unique(corpus.songs)),
        "left_out": dict(corpus.counts),
        "data_hash": corpus.content_hash(),
        "seed": options.seed,
        "libraries": library_versions(),
        **evaluate(
            evaluation,
            options.importance_samples,
            NGramCost(training.windows, processor),
            None if options.no_pictures else options.output,
        ),
    }
    json_path, markdown_path = write_report(options.output, report, to_markdown(report))
    if options.write_latent_info:
        info = {"split": options.split, "data_hash": report["data_hash"], **evaluation.latent_info()}
        write_atomically(Path(options.model) / "latent_info.json", json.dumps(info))
    print(f"{json_path}, {markdown_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
