"""Latent directions of five melodic attributes, and a report of what they do (Roberts et al. 2018, section 5.6).

    python training/attribute_vectors.py --model runs/musicvae-mel-2bar-small/best --corpus grids --windows 0

The vector of an attribute is the mean code of the training windows in its upper quartile minus that of its lower
quartile. Verification adds it with amounts from -1.5 to 1.5 to draws of the prior and measures all attributes of what
is decoded. Two options make directions cleaner: --active-only leaves out the dimensions that the posterior does not
use, --orthogonal takes the nearest vectors at right angles to each other, of the same lengths (Loewdin 1950).
Written into the model's folder (or --output): attributes.safetensors (read by `apply_attribute`), attributes.json
(thresholds, counts, data, verification) and attributes.md. Density and 16th syncopation move together by nature.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from partimento.modeling.musicvae.modeling_musicvae import ATTRIBUTES_FILE
from partimento.tokenization import MusicVAEProcessor
from partimento.tokenization.melody_attributes import ATTRIBUTES, measure_attributes
from partimento.training.evaluate_musicvae import add_data_options, load, read_windows
from partimento.training.reports import library_versions, markdown_table, write_report

ACTIVE_SIGMA = 0.98
AMOUNTS = tuple(np.arange(-1.5, 1.51, 0.5).tolist())
NAMES = tuple(ATTRIBUTES)


def attribute_vectors(codes: torch.Tensor, values: dict[str, np.ndarray]) -> tuple[dict[str, torch.Tensor], dict]:
    """Vectors `[Z]` by name of codes `[n, Z]` with attribute values `[n]`, and thresholds and counts.

    Raises:
        ValueError: an attribute is defined for fewer than four windows, or is the same for all.
    """
    vectors, facts = {}, {}
    for name, value in values.items():
        defined = np.isfinite(value)
        if defined.sum() < 4:
            raise ValueError(f"{name} is defined for {defined.sum()} windows only: read more of them")
        low, high = np.quantile(value[defined], [0.25, 0.75])
        order = np.argsort(np.where(defined, value, np.nan), kind="stable")[: defined.sum()]  # undefined ones are last
        quarter = len(order) // 4
        bottom, top = order[:quarter], order[-quarter:]
        if value[bottom].mean() == value[top].mean():
            raise ValueError(f"{name} is {value[top][0]} in both quartiles: read more windows")
        vectors[name] = (codes[top].double().mean(0) - codes[bottom].double().mean(0)).float()
        facts[name] = {
            "lower_quartile": float(low),
            "upper_quartile": float(high),
            "mean_of_bottom": float(value[bottom].mean()),
            "mean_of_top": float(value[top].mean()),
            "norm": float(vectors[name].norm()),
            "undefined": int((~defined).sum()),
        }
    return vectors, facts


def only_active(vectors: dict[str, torch.Tensor], sigma: torch.Tensor) -> dict[str, torch.Tensor]:
    """Vectors without the dimensions whose posterior deviation `[n, Z]` is 0.98 or more in the mean."""
    active = sigma.mean(0) < ACTIVE_SIGMA
    return {name: torch.where(active, vector, 0.0) for name, vector in vectors.items()}


def orthogonal(vectors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The nearest vectors at right angles to each other: the polar factor of the matrix of their directions."""
    stacked = torch.stack(list(vectors.values())).double()
    lengths = stacked.norm(dim=1, keepdim=True)
    left, _, right = torch.linalg.svd(stacked / lengths, full_matrices=False)
    return dict(zip(vectors, (lengths * (left @ right)).float()))


def verify(
    model: Any, processor: MusicVAEProcessor, vectors: dict[str, torch.Tensor], num_codes: int = 256, seed: int = 0
) -> dict[str, Any]:
    """Mean change of every attribute along every vector, greedily decoded from draws of the prior.

    Returns:
        `curves[vector][attribute]`, means over codes per amount; `matrix[vector][attribute]`, the difference between
        the largest and the smallest amount; `monotonic`, whether the own attribute rises and never falls;
        `diagonal_dominance`, whether its change, in standard deviations of the unmoved music, is the largest of its
        row.
    """
    z = torch.randn(num_codes, model.config.z_size, generator=torch.Generator().manual_seed(seed))
    unmoved = measure_attributes(model.decode(z).cpu().numpy(), processor.pitch_min)
    spread = {name: float(np.nanstd(value)) for name, value in unmoved.items()}
    curves: dict[str, dict[str, list[float]]] = {}
    for name, vector in vectors.items():
        curves[name] = {other: [] for other in NAMES}
        for amount in AMOUNTS:
            music = model.decode(z + amount * vector).cpu().numpy()
            for other, value in measure_attributes(music, processor.pitch_min).items():
                curves[name][other].append(float(np.nanmean(value)) if np.isfinite(value).any() else 0.0)
    matrix = {name: {other: curve[-1] - curve[0] for other, curve in row.items()} for name, row in curves.items()}
    return {
        "amounts": list(AMOUNTS),
        "codes": num_codes,
        "curves": curves,
        "matrix": matrix,
        "spread": spread,
        "monotonic": {name: rises(curves[name][name]) for name in vectors},
        "diagonal_dominance": {name: own_change_is_largest(name, row, spread) for name, row in matrix.items()},
    }


def rises(curve: list[float]) -> bool:
    """Whether a curve ends higher than it began and never falls."""
    return bool((np.diff(curve) >= 0).all() and curve[-1] > curve[0])


def own_change_is_largest(name: str, row: dict[str, float], spread: dict[str, float]) -> bool:
    """Whether an attribute changes more along its own vector than any other one, in units of `spread`."""
    scaled = {other: abs(change) / spread[other] if spread[other] else 0.0 for other, change in row.items()}
    return scaled[name] > 0 and scaled[name] == max(scaled.values())


def to_markdown(report: dict[str, Any]) -> str:
    """The 5 x 5 matrix and the own curves."""
    check = report["verification"]
    rows = [[name, *(row[other] for other in NAMES)] for name, row in check["matrix"].items()]
    verdicts = ("monotonic", "diagonal_dominance")
    curves = [
        [name, *check["curves"][name][name], *("yes" if check[verdict][name] else "no" for verdict in verdicts)]
        for name in check["matrix"]
    ]
    amounts = [f"{amount:+.1f}" for amount in check["amounts"]]
    return (
        f"# Attribute vectors\n\nFrom {report['windows']:,} training windows, verified on {check['codes']} draws of "
        "the prior. Mean change of the columns from the smallest to the largest amount of the rows:\n\n"
        + markdown_table(["vector", *NAMES], rows)
        + "\nThe own attribute along each vector:\n\n"
        + markdown_table(["vector", *amounts, "monotonic", "largest of its row"], curves)
        + "\nMore notes leave more of them on odd sixteenths: density and 16th syncopation move together.\n"
    )


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--active-only", action="store_true", help="no dimension that the posterior does not use")
    parser.add_argument("--orthogonal", action="store_true", help="vectors at right angles to each other")
    parser.add_argument("--output", type=Path, help="folder to write to (default: that of the model)")
    parser.add_argument("--codes", type=int, default=256, help="draws of the prior in the verification")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compute, verify, write; return the exit status."""
    options = make_parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        model, processor = load(options.model)
        if processor.tracks != ["melody"]:
            raise ValueError(f"--model {options.model}: attributes belong to melodies, it has {processor.tracks}")
        corpus = read_windows(options, "train", processor)
        ids = torch.from_numpy(corpus.windows[:, 0].astype(np.int64))
        posteriors = [model.encode(part) for part in ids.split(256)]
        codes, sigma = (torch.cat([getattr(part, name) for part in posteriors]) for name in ("mu", "sigma"))
        vectors, facts = attribute_vectors(codes, measure_attributes(corpus.windows[:, 0], processor.pitch_min))
        vectors = only_active(vectors, sigma) if options.active_only else vectors
        vectors = orthogonal(vectors) if options.orthogonal else vectors
    except (OSError, ValueError) as error:
        print(f"attribute_vectors.py: {error}", file=sys.stderr)
        return 2
    report = {
        "model": options.model,
        "windows": len(corpus),
        "data_hash": corpus.content_hash(),
        "options": {"active_only": options.active_only, "orthogonal": options.orthogonal},
        "attributes": facts,
        "verification": verify(model, processor, vectors, options.codes, options.seed),
        "libraries": library_versions(),
    }
    folder = options.output or Path(options.model)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".tmp-{ATTRIBUTES_FILE}"
    save_file(vectors, temporary)
    temporary.replace(folder / ATTRIBUTES_FILE)
    json_path, markdown_path = write_report(folder / "attributes.json", report, to_markdown(report))
    print(f"{folder / ATTRIBUTES_FILE}, {json_path}, {markdown_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
