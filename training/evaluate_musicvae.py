"""Measure a MusicVAE on held-out songs, once, and write a report.

    python training/evaluate_musicvae.py --model runs/musicvae-mel-2bar-small/best --corpus grids -o report.json

The report (JSON and Markdown) has per track: teacher-forced and free-running accuracy, split into steps with an event
and steps without, beside a baseline that always says "no event"; F1 of notes; nats per step; and KL bits, active units,
the price of shuffled codes, overlap of prior samples with held-out music, smoothness of interpolation and decoding
time. With --write-latent-info the model's folder also gets latent_info.json (KL, quantiles and principal directions of
the posterior means) for programs that show the latent space.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel

from partimento.modeling import MusicVAEModel
from partimento.tokenization import MusicVAEProcessor
from partimento.training.checkpointing import write_atomically
from partimento.training.collapse_monitor import latent_figures
from partimento.training.grid_arguments import GridArguments
from partimento.training.grid_data import GridCorpus
from partimento.training.grid_metrics import compare, overlap, statistics
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
        for ids in tqdm(self.batches, desc="reconstruction", disable=not sys.stderr.isatty()):
            with torch.no_grad():
                logits = self.model(ids).logits
            found["teacher_forced"].append(self.model._choose(logits.flatten(0, 1), 0.0).reshape(len(ids), -1))
            for name, mode in MODES.items():
                z = self.model.encode(ids, mode["sample"], self.generator).z
                found[name].append(self.model.decode(z, mode["temperature"], generator=self.generator))
        silence = torch.from_numpy(self.processor.join_tracks(list(np.zeros_like(self.windows).transpose(1, 0, 2))))
        result = {name: self.by_track(torch.cat(parts)) for name, parts in found.items()}
        return {"always_no_event": self.by_track(silence), **result}

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

    def interpolation(self, num_pairs: int = 100, num_steps: int = 9) -> dict[str, Any]:
        """Path -> share of ids that differ from the start, along the path, mean over pairs of held-out windows."""
        mu = torch.cat([self.model.encode(ids).mu for ids in self.batches])
        order = torch.randperm(len(mu), generator=torch.Generator().manual_seed(self.seed))
        num_pairs = min(num_pairs, len(mu) // 2)
        z1, z2 = mu[order[:num_pairs]], mu[order[num_pairs : 2 * num_pairs]]
        result: dict[str, Any] = {"pairs": num_pairs}
        for method in ("linear", "slerp"):
            path = self.model.interpolate(z1, z2, num_steps, method)
            music = torch.stack([self.model.decode(points) for points in path])
            result[method] = {
                "distance_from_start": (music != music[0]).double().mean((1, 2)).tolist(),
                "distance_per_step": (music[1:] != music[:-1]).double().mean((1, 2)).tolist(),
                "ends_exact": bool(torch.equal(path[0], z1) and torch.equal(path[-1], z2)),
                "finite": bool(torch.isfinite(path).all()),
            }
        return result

    def decode_latency(self, repeats: int = 20) -> float:
        """Median milliseconds of decoding one vector."""
        z = torch.randn(1, self.model.config.z_size, device=self.model.device, generator=self.generator)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.model.decode(z)
            times.append(time.perf_counter() - start)
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


def evaluate(evaluation: Evaluation, num_importance: int = 0) -> dict[str, Any]:
    """The whole report of a model."""
    return {
        "reconstruction": evaluation.reconstruction(),
        "likelihood": evaluation.likelihood(num_importance),
        "latent": evaluation.latent(),
        "prior_overlap": evaluation.prior_samples(),
        "interpolation": evaluation.interpolation(),
        "parameters": evaluation.model.num_parameters(),
        "decode_milliseconds": evaluation.decode_latency(),
    }


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
    paths = report["interpolation"]
    header = ["distance from start", *(f"{i / 8:.3f}" for i in range(9))]
    lines.append(markdown_table(header, [[m, *paths[m]["distance_from_start"]] for m in ("linear", "slerp")]))
    return "\n".join(lines)


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
    parser.add_argument("--seed", type=int, default=0)
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
    parser.add_argument("--split", default="validation", choices=("train", "validation", "test"))
    parser.add_argument("--keep-training-windows", action="store_true", help="also windows that occur in training")
    parser.add_argument("--importance-samples", type=int, default=0, help="K of the importance-weighted bound")
    parser.add_argument("--write-latent-info", action="store_true", help="write latent_info.json into the model folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file; Markdown is written beside it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; return the exit status."""
    options = make_parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        report_paths(options.output)
        model, processor = load(options.model)
        seen = None
        if options.split != "train" and not options.keep_training_windows:
            seen = GridCorpus.from_parquet(grid_arguments(options), "train", processor)
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
        "songs": len(np.unique(corpus.songs)),
        "left_out": dict(corpus.counts),
        "data_hash": corpus.content_hash(),
        "seed": options.seed,
        "libraries": library_versions(),
        **evaluate(evaluation, options.importance_samples),
    }
    json_path, markdown_path = write_report(options.output, report, to_markdown(report))
    if options.write_latent_info:
        info = {"split": options.split, "data_hash": report["data_hash"], **evaluation.latent_info()}
        write_atomically(Path(options.model) / "latent_info.json", json.dumps(info))
    print(f"{json_path}, {markdown_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
