"""Trains one dense VAE of the laboratory and measures it on held-out items.

The recipe is that of F. Arribas Jara (UAM, 2018, appendix G): Adam at 1e-3 (0.9, 0.999, 1e-8), batches of 100, 50
epochs. The laboratory trains dozens of small models on data in memory, images among them, which the plan of
`train.py` (songs, updates, buckets) does not fit; `accelerate launch training/train.py` with
recipes/dense-vae-drums-open.yaml trains one model on a grid corpus, and every command here takes it as `--model`.

Each epoch draws its order, noise and damage from generators seeded by (seed, epoch): a run that was interrupted goes on
from its last saved epoch as if nothing had happened.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from partimento.modeling import DenseVAEModel
from partimento.modeling.dense_vae.latent_dense_vae import kl_to_prior
from partimento.training.checkpointing import write_atomically
from partimento.training.latent_damage import damage, hidden_mask
from partimento.training.latent_data import LabData, LabItems, config_for, drawn
from partimento.training.model_setup import export_model

SNAPSHOT_EPOCHS = (0, 1, 10, 20, 40, 50)
NUM_SNAPSHOT_ITEMS = 8
ACTIVE_VARIANCE = 0.01  # of mu, above which a dimension counts as used (Burda et al. 2016)


@dataclass(frozen=True)
class FitSettings:
    """What a run depends on, beside the data."""

    latent_size: int = 20
    seed: int = 0
    epochs: int = 50
    batch_size: int = 100
    learning_rate: float = 1e-3
    hidden_sizes: tuple[int, ...] = (500, 500)
    beta: float = 1.0
    free_bits: float = 0.0
    num_samples: int = 1
    likelihood: str = ""  # "": what fits the data
    bias_init: str = "zeros"
    binarize: str = "none"  # `dynamic` draws greys anew in every epoch
    damage: str = "none"  # a denoiser: what is done to the items it reads
    damage_share: float = 0.2
    hide_share: float = 0.0  # a model of incomplete items: cells that are missing
    mask_as_input: bool = False

    @property
    def name(self) -> str:
        kind = f"-{self.damage}" if self.damage != "none" else ""
        kind += f"-hide{self.hide_share:g}" if self.hide_share else ""
        return f"z{self.latent_size}{kind}-seed{self.seed}"


@dataclass
class FitRecord:
    """What a run left behind; costs are nats per item."""

    settings: dict[str, Any]
    epoch: int = 0
    train_cost: list[float] = field(default_factory=list)  # -ELBO of the training batches, by epoch
    validation: list[dict[str, float]] = field(default_factory=list)  # figures of `measure`, each with its epoch
    best_epoch: int = 0
    seconds: float = 0.0
    parameters: int = 0
    data_hash: str = ""
    done: bool = False


class Fit:
    """One run in one folder: record.json, snapshots.npz, model/, and checkpoint.pt as long as it is not done.

    Raises:
        ValueError: the folder holds a run with other settings or other data.
    """

    def __init__(self, data: LabData, settings: FitSettings, folder: Path, device: torch.device | str = "cpu"):
        self.data, self.settings, self.folder, self.device = data, settings, folder, torch.device(device)
        plain = json.loads(json.dumps(asdict(settings)))
        self.record = FitRecord(plain, data_hash=data.describe()["hash"])
        path = folder / "record.json"
        if path.is_file():
            found = FitRecord(**json.loads(path.read_text(encoding="utf-8")))
            if (found.settings, found.data_hash) != (plain, self.record.data_hash):
                raise ValueError(f"{folder}: holds a run with other settings or data; give another --output")
            self.record = found

    def run(self, save_every: int = 10, eval_every: int = 5, progress: tqdm | None = None) -> FitRecord:
        """Train to the last epoch, unless that is done; the epoch with the best validation bound is kept."""
        if self.record.done:
            return self.record
        self.folder.mkdir(parents=True, exist_ok=True)
        settings, record = self.settings, self.record
        model = new_model(self.data, settings).to(self.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        record.parameters = model.num_parameters()
        best: dict[str, torch.Tensor] = {}
        snapshots: dict[str, np.ndarray] = {}
        if (self.folder / "checkpoint.pt").is_file():
            best, snapshots = self._load(model, optimizer)
            record = self.record
        else:
            best = self._measure(model, best, snapshots)
        while record.epoch < settings.epochs:
            started = time.perf_counter()
            record.train_cost.append(self._epoch(model, optimizer))
            record.epoch += 1
            record.seconds += time.perf_counter() - started
            last = record.epoch == settings.epochs
            if last or record.epoch % eval_every == 0 or record.epoch in SNAPSHOT_EPOCHS:
                best = self._measure(model, best, snapshots)
            if not last and record.epoch % save_every == 0:
                self._save(model, optimizer, best, snapshots)
            if progress is not None:
                progress.set_postfix_str(f"{settings.name} cost {record.train_cost[-1]:.2f}", refresh=False)
                progress.update()
        model.load_state_dict(best)
        export_model(self.folder / "model", model, self.data.processor, model.state_dict())
        write_npz(self.folder / "snapshots.npz", snapshots)
        record.done = True
        write_atomically(self.folder / "record.json", json.dumps(asdict(record), indent=1))
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        return record

    def model(self) -> DenseVAEModel:
        """The trained model, in evaluation mode."""
        return DenseVAEModel.from_pretrained(self.folder / "model", dtype=torch.float32).eval().to(self.device)

    def snapshots(self) -> dict[str, np.ndarray]:
        """`items` `[k, *shape]` of the validation split, `epochs` `[e]`, `reconstructions` `[e, k, *shape]`."""
        with np.load(self.folder / "snapshots.npz") as archive:
            return dict(archive)

    def _epoch(self, model: DenseVAEModel, optimizer: torch.optim.Optimizer) -> float:
        """One pass over the training items; the mean of -ELBO on the way."""
        settings, epoch = self.settings, self.record.epoch
        values = self.data.splits["train"].values
        rng = np.random.default_rng((settings.seed, epoch))
        noise = torch.Generator(self.device).manual_seed(1_000_003 * settings.seed + epoch)
        model.train()
        total = 0.0
        order = rng.permutation(len(values))
        for start in range(0, len(order), settings.batch_size):
            batch = values[order[start : start + settings.batch_size]]
            if settings.binarize == "dynamic":
                batch = drawn(batch, rng)
            inputs = training_inputs(batch, settings, rng)
            tensors = {name: torch.from_numpy(array).to(self.device) for name, array in inputs.items()}
            output = model(**tensors, beta=settings.beta, generator=noise)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            total += float(output.recon.detach() + output.kl.detach()) * len(batch)
        if not math.isfinite(total):
            raise ValueError(f"{self.folder}: the cost became {total} in epoch {epoch + 1}; lower --learning-rate")
        return total / len(order)

    def _measure(self, model, best, snapshots) -> dict[str, torch.Tensor]:
        """Add the validation figures, and reconstructions at some epochs; return the best weights so far."""
        record, settings = self.record, self.settings
        items = self.data.splits["validation"]
        rng = np.random.default_rng((settings.seed, 0, 1))  # the same damage at every epoch
        inputs = training_inputs(items.values, settings, rng)
        figures = measure(model, inputs, seed=settings.seed)
        improved = not record.validation or figures["elbo"] > max(entry["elbo"] for entry in record.validation)
        record.validation.append({"epoch": record.epoch, **figures})
        if improved:
            record.best_epoch = record.epoch
            best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        if record.epoch in SNAPSHOT_EPOCHS or record.epoch == settings.epochs:
            shown = torch.from_numpy(items.values[:NUM_SNAPSHOT_ITEMS].astype(np.float32)).to(self.device)
            rebuilt = model.eval().reconstruct(shown).cpu().numpy()[None]
            before = snapshots.get("reconstructions", rebuilt[:0])
            snapshots["items"] = items.values[:NUM_SNAPSHOT_ITEMS]
            snapshots["epochs"] = np.append(snapshots.get("epochs", np.zeros(0, int)), record.epoch)
            snapshots["reconstructions"] = np.concatenate([before, rebuilt])
        return best

    def _save(self, model, optimizer, best, snapshots) -> None:
        content = {
            "record": asdict(self.record),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "best": best,
            "snapshots": {name: torch.from_numpy(array) for name, array in snapshots.items()},
        }
        path = self.folder / "checkpoint.pt"
        temporary = path.with_suffix(".tmp")
        torch.save(content, temporary)
        temporary.replace(path)

    def _load(self, model, optimizer) -> tuple[dict, dict]:
        content = torch.load(self.folder / "checkpoint.pt", weights_only=True, map_location=self.device)
        found = FitRecord(**content["record"])
        if (found.settings, found.data_hash) != (self.record.settings, self.record.data_hash):
            raise ValueError(f"{self.folder}: holds a run with other settings or data; give another --output")
        self.record = found
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        return content["best"], {name: tensor.cpu().numpy() for name, tensor in content["snapshots"].items()}


def new_model(data: LabData, settings: FitSettings) -> DenseVAEModel:
    """A model with weights drawn from the seed; the global generator is left as it was."""
    config = config_for(
        data,
        hidden_sizes=settings.hidden_sizes,
        latent_size=settings.latent_size,
        free_bits=settings.free_bits,
        num_samples=settings.num_samples,
        bias_init=settings.bias_init,
        mask_as_input=settings.mask_as_input,
        **({"likelihood": settings.likelihood} if settings.likelihood else {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return DenseVAEModel(config)


def training_inputs(values: np.ndarray, settings: FitSettings, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What `forward` gets of some items: damaged ones with their originals, or the items and what of them is seen."""
    whole = values.astype(np.float32)
    if settings.damage != "none":
        damaged, _ = damage(values, settings.damage, settings.damage_share, rng)
        return {"input_values": damaged.astype(np.float32), "labels": whole}
    if settings.hide_share:
        return {"input_values": whole, "observed_mask": ~hidden_mask(values.shape, settings.hide_share, "cells", rng)}
    return {"input_values": whole}


@torch.no_grad()
def measure(
    model: DenseVAEModel, inputs: dict[str, np.ndarray], num_samples: int = 1, seed: int = 0, rows: int = 500
) -> dict[str, float]:
    """Held-out figures in nats per item (`kl_bits` in bits): elbo, recon, kl, and the number of active dimensions."""
    was_training = model.training
    model.eval()
    generator = torch.Generator(model.device).manual_seed(seed)
    sums, means = {"recon": 0.0, "kl": 0.0}, []
    count = len(inputs["input_values"])
    for start in range(0, count, rows):
        part = {name: torch.from_numpy(array[start : start + rows]).to(model.device) for name, array in inputs.items()}
        output = model(**part, num_samples=num_samples, generator=generator)
        sums["recon"] += float(output.recon) * len(output.mu)
        sums["kl"] += float(kl_to_prior(output.mu, output.logvar).sum())
        means.append(output.mu.double())
    model.train(was_training)
    recon, kl = sums["recon"] / count, sums["kl"] / count
    active = int((torch.cat(means).var(0) > ACTIVE_VARIANCE).sum()) if count > 1 else 0
    return {"elbo": -recon - kl, "recon": recon, "kl": kl, "kl_bits": kl / math.log(2), "active_units": active}


def held_out(model: DenseVAEModel, items: LabItems, num_samples: int = 10, seed: int = 0) -> dict[str, float]:
    """`measure` on whole items, with several draws of z for each."""
    return measure(model, {"input_values": items.values.astype(np.float32)}, num_samples, seed)


def independent_cells(data: LabData, split: str = "validation") -> float:
    """Mean ln p, in nats per item, of a model that knows only how often each cell (each choice of a row) is on.

    Counts of the training items, one half added to each (Krichevsky, Trofimov 1981).
    """
    train, items = data.splits["train"].values, data.splits[split].values.astype(np.float64)
    on = train.sum(0, dtype=np.float64) + 0.5
    if data.likelihood == "categorical":
        return float((items * np.log(on / on.sum(-1, keepdims=True))).sum() / len(items))
    p = on / (len(train) + 1)
    return float((items * np.log(p) + (1 - items) * np.log1p(-p)).sum() / len(items))


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an archive, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)


def batches(values: np.ndarray, rows: int, device: torch.device | str) -> Iterator[torch.Tensor]:
    """Items as float tensors, some rows at a time."""
    for start in range(0, len(values), rows):
        yield torch.from_numpy(values[start : start + rows].astype(np.float32)).to(device)


def by_rows(function: Callable[[torch.Tensor], torch.Tensor], values: np.ndarray, device: Any) -> np.ndarray:
    """A function of item tensors applied to many items, 500 at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([function(part).cpu() for part in batches(values, 500, device)]).numpy()
