"""What a classifier gains from a latent code: softmax regression on mu against softmax regression on the cells.

    raw           the cells themselves
    frozen        mu of a trained encoder, which stays as it is, bit by bit
    fine_tune     the trained encoder learns on
    from_scratch  the same network with new weights

The published experiment (F. Arribas Jara, UAM, 2018, appendix F: 98 % on codes against 92 % on pixels of MNIST) loads
no trained weights and trains the whole encoder with every label, which is `from_scratch`: 668,560 parameters against
7,850 of the raw one. What the codes are worth shows in `frozen`, and with few labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from partimento.modeling.dense_vae import DenseVAEEncoder
from partimento.training.latent_data import LabItems
from partimento.training.latent_training import batches
from partimento.training.reports import markdown_table

MODES = ("raw", "frozen", "fine_tune", "from_scratch")


@dataclass(frozen=True)
class ClassifierSettings:
    """Plain SGD; 2,750 updates of 100 items are the five epochs of 55,000 images that were published.

    The number of updates is the same for every share of labels.
    """

    updates: int = 2750
    batch_size: int = 100
    learning_rate: float = 0.1


class LatentClassifier(nn.Module):
    """Softmax regression on mu of an encoder, or on the cells where there is none."""

    def __init__(self, input_size: int, num_labels: int, encoder: DenseVAEEncoder | None = None):
        super().__init__()
        self.encoder = encoder
        if encoder is not None:
            encoder.to_logvar = None  # only mu is read
        self.head = nn.Linear(input_size, num_labels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Items `[B, *shape]` to logits `[B, labels]`."""
        return self.head(values.flatten(1) if self.encoder is None else self.encoder(values).mu)


def make_classifier(mode: str, encoder: DenseVAEEncoder, num_labels: int, seed: int) -> LatentClassifier:
    """A new classifier; `encoder` itself is never touched, the classifier gets a copy of it (or of its shape).

    Raises:
        ValueError: unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown; choose one of {', '.join(MODES)}")
    config = encoder.config
    if mode == "raw":
        return LatentClassifier(config.input_size, num_labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        own = DenseVAEEncoder(config)
    if mode != "from_scratch":
        own.load_state_dict(encoder.state_dict())
    own.to(encoder.device).requires_grad_(mode != "frozen")
    return LatentClassifier(config.latent_size, num_labels, own).to(encoder.device)


def train_classifier(classifier: LatentClassifier, items: LabItems, settings: ClassifierSettings, seed: int) -> None:
    """Train what asks for gradients, on all items in an order drawn anew in every pass."""
    device = classifier.head.weight.device
    rng = np.random.default_rng(seed)
    encoder = classifier.encoder
    is_fixed = encoder is None or not any(parameter.requires_grad for parameter in encoder.parameters())
    classifier.train()
    with torch.no_grad():  # what does not learn is computed once
        parts = [_read(classifier, part) if is_fixed else part for part in batches(items.values, 500, device)]
    inputs, labels = torch.cat(parts), torch.from_numpy(items.labels).to(device)
    learning = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=settings.learning_rate)
    order = np.zeros(0, np.int64)
    for _ in range(settings.updates):
        if len(order) < min(settings.batch_size, len(items)):
            order = np.concatenate([order, rng.permutation(len(items))])
        chosen, order = order[: settings.batch_size], order[settings.batch_size :]
        batch = inputs[torch.from_numpy(chosen).to(device)]
        logits = classifier.head(batch) if is_fixed else classifier(batch)
        loss = F.cross_entropy(logits, labels[torch.from_numpy(chosen).to(device)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _read(classifier: LatentClassifier, values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1) if classifier.encoder is None else classifier.encoder(values).mu


@torch.no_grad()
def predict(classifier: LatentClassifier, items: LabItems) -> np.ndarray:
    """Probabilities `[n, labels]`."""
    classifier.eval()
    device = classifier.head.weight.device
    return torch.cat([classifier(part).softmax(-1).cpu() for part in batches(items.values, 500, device)]).numpy()


def scores(labels: np.ndarray, found: np.ndarray, num_labels: int) -> dict[str, Any]:
    """Accuracy, macro-F1 (mean over labels that occur in either) and the confusion matrix (rows: true labels)."""
    confusion = np.zeros((num_labels, num_labels), int)
    np.add.at(confusion, (labels, found), 1)
    hits, total = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
    f1 = 2 * hits[total > 0] / total[total > 0]
    return {"accuracy": float(hits.sum() / len(labels)), "macro_f1": float(f1.mean()), "confusion": confusion.tolist()}


def some_labels(items: LabItems, share: float, seed: int) -> LabItems:
    """A share of the items, at least one of each label, drawn from the seed."""
    rng = np.random.default_rng((seed, 17))
    order = rng.permutation(len(items))
    count = max(1, round(share * len(items)))
    first = order[np.unique(items.labels[order], return_index=True)[1]]
    rest = order[~np.isin(order, first)]
    return items.take(np.concatenate([first, rest[: max(0, count - len(first))]]))


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds, by mode and share of labels."""
    rows = []
    for mode in MODES:
        for share in sorted({run["share"] for run in runs}):
            of_kind = [run for run in runs if (run["mode"], run["share"]) == (mode, share)]
            if not of_kind:
                continue
            row: dict[str, Any] = {"mode": mode, "share": share, "seeds": len(of_kind)}
            row |= {name: of_kind[0][name] for name in ("labels_used", "parameters")}
            for name in ("accuracy", "macro_f1"):
                values = [run[name] for run in of_kind]
                row[name] = float(np.mean(values))
                row[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
            rows.append(row)
    return rows


def to_markdown(report: dict[str, Any]) -> str:
    """The table for people."""
    header = ["mode", "labels", "trained parameters", "accuracy", "± sd", "macro-F1", "± sd"]
    rows = [
        [
            row["mode"],
            row["labels_used"],
            row["parameters"],
            row["accuracy"],
            row["accuracy_sd"],
            row["macro_f1"],
            row["macro_f1_sd"],
        ]
        for row in report["summary"]
    ]
    names, settings = report["labels"], report["settings"]
    lines = [
        f"# Classifiers on {report['data']['data']}: codes of {report['latent_size']} dimensions against the cells\n",
        f"{report['test_items']:,} held-out items of the test split, {len(names)} labels ({', '.join(names)}); "
        f"{settings['updates']} updates of {settings['batch_size']} items, SGD at {settings['learning_rate']}; mean "
        f"and standard deviation over {len(report['seeds'])} seeds (weights, codes and the labels that are used).\n",
        markdown_table(header, rows),
        f"Always the most frequent label: accuracy {report['majority']:.4f}.\n",
    ]
    if report.get("note"):
        lines.append(report["note"] + "\n")
    for mode, matrix in report["confusion"].items():
        lines += [f"## {mode}, all labels, summed over seeds: rows are true\n"]
        lines.append(markdown_table(["", *names], [[name, *row] for name, row in zip(names, matrix)]))
    return "\n".join(lines)
