"""The commands of the latent laboratory; each takes a `Lab`, writes its files and returns its report."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from partimento.training import latent_bounds, latent_classify, latent_explorer, latent_views
from partimento.training.latent_classify import ClassifierSettings
from partimento.training.latent_damage import cell_f1, damage, hidden_cost, hidden_mask
from partimento.training.latent_data import spread
from partimento.training.latent_models import DenseLatents, MusicLatents, joined_score, principal_axes
from partimento.training.latent_training import by_rows, held_out, independent_cells
from partimento.training.reports import markdown_table

if TYPE_CHECKING:
    from partimento.training.latent_lab import Lab

# Arribas Jara (UAM, 2018): training -ELBO on MNIST in nats, one seed, greys under a Bernoulli, by epoch.
PUBLISHED_EPOCHS = (1, 10, 20, 40, 50)
PUBLISHED = {
    2: (177.768, 143.697, 139.803, 136.944, 135.981),
    10: (147.226, 104.356, 100.919, 98.266, 97.528),
    20: (148.805, 101.593, 98.605, 96.426, 95.787),
    50: (161.469, 103.025, 99.912, 97.803, 97.215),
}
SWEEP_FIGURES = ("elbo", "recon", "kl", "kl_bits", "active_units")


def sweep_latent(lab: "Lab") -> dict[str, Any]:
    """Held-out bound by latent size, several seeds; the best size by validation, and its figure on the test split."""
    dims, seeds = sorted(set(lab.options.dims)), lab.options.seeds
    fits = lab.fits([lab.settings(latent_size=size, seed=seed) for size in dims for seed in seeds])
    rows, runs = [], []
    for size in dims:
        own = [fit for fit in fits if fit.settings.latent_size == size]
        found = [held_out(fit.model(), lab.data.splits["validation"]) for fit in own]
        row: dict[str, Any] = {"latent_size": size, "seeds": len(own), "parameters": own[0].record.parameters}
        for name in SWEEP_FIGURES:
            row[name], row[f"{name}_sd"] = mean_and_sd([figures[name] for figures in found])
        row["train_cost"], row["train_cost_sd"] = mean_and_sd([fit.record.train_cost[-1] for fit in own])
        row["best_epoch"] = [fit.record.best_epoch for fit in own]
        row["seconds_per_epoch"] = float(np.mean([fit.record.seconds / fit.record.epoch for fit in own]))
        row["published_train_cost"] = PUBLISHED[size][-1] if size in PUBLISHED else None
        rows.append(row)
        runs += [
            {
                "name": fit.settings.name,
                "validation": figures,
                "history": fit.record.validation,
                "train": fit.record.train_cost,
            }
            for fit, figures in zip(own, found)
        ]
    best = max(rows, key=lambda row: row["elbo"])
    chosen = [fit for fit in fits if fit.settings.latent_size == best["latent_size"]]
    test = [held_out(fit.model(), lab.data.splits["test"]) for fit in chosen]
    has_baseline = lab.config_likelihood != "gaussian"
    report = {
        "rows": rows,
        "best_latent_size": best["latent_size"],
        "test": {name: mean_and_sd([figures[name] for figures in test]) for name in SWEEP_FIGURES},
        "independent_cells": {
            split: independent_cells(lab.data, split) if has_baseline else None for split in ("validation", "test")
        },
        "published": {"epochs": PUBLISHED_EPOCHS, "mnist_train_cost": PUBLISHED},
        "runs": runs,
    }
    curves = {
        f"J = {fit.settings.latent_size}": {
            "epoch": list(range(1, fit.record.epoch + 1)),
            "train": fit.record.train_cost,
            "validation_epoch": [entry["epoch"] for entry in fit.record.validation[1:]],
            "validation": [-entry["elbo"] for entry in fit.record.validation[1:]],
        }
        for fit in fits
        if fit.settings.seed == seeds[0]
    }
    latent_views.save_sweep(rows, curves, lab.path("sweep_latent.png"), lab.data.name)
    lab.write("sweep_latent", report, sweep_markdown(lab, report))
    return report


def sweep_markdown(lab: "Lab", report: dict[str, Any]) -> str:
    """The sweep's tables for people."""
    header = ["J", "ELBO", "± sd", "reconstruction", "KL, nats", "KL, bits", "active", "best epoch"]
    header += [f"training -ELBO, epoch {lab.options.epochs}", "± sd", "published, MNIST, epoch 50", "s per epoch"]
    rows = [
        [
            row["latent_size"],
            *(two_digits(row[name]) for name in ("elbo", "elbo_sd", "recon", "kl", "kl_bits")),
            f"{row['active_units']:.1f}",
            "/".join(map(str, row["best_epoch"])),
            *(two_digits(row[name]) for name in ("train_cost", "train_cost_sd")),
            row["published_train_cost"],
            row["seconds_per_epoch"],
        ]
        for row in report["rows"]
    ]
    test, baseline = report["test"], report["independent_cells"]
    lines = [
        f"# Latent sweep on {lab.data.name}\n",
        f"Validation figures of the best epoch, 10 draws of z, nats per item; {len(lab.options.seeds)} seeds. Items: "
        f"{lab.data.describe()['items']}.\n",
        markdown_table(header, rows),
        f"Best by validation: J = {report['best_latent_size']}; test ELBO {test['elbo'][0]:.3f}"
        + (f" ± {test['elbo'][1]:.3f}" if test["elbo"][1] is not None else "")
        + " nats per item, read once.\n",
    ]
    if baseline["test"] is not None:
        figures = f"{baseline['validation']:.3f} (validation), {baseline['test']:.3f} (test)"
        lines.append(f"Independent cells, for comparison: {figures}.\n")
    lines.append(
        "The published figures are training costs of one seed with greys under a Bernoulli, on other data: they stand "
        "here for their shape (J = 20 best, 50 no better than 10), not for comparison.\n"
    )
    return "\n".join(lines)


def two_digits(value: float | None) -> str | None:
    """Nats with two digits behind the point."""
    return None if value is None else f"{value:.2f}"


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and, of several values, standard deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def classify(lab: "Lab") -> dict[str, Any]:
    """Softmax regression on codes and on the raw cells, by share of labels; several seeds, test split."""
    options, names = lab.options, lab.data.label_names
    train, test = (lab.data.items(split).labelled() for split in ("train", "test"))
    if len(names) < 2 or not len(test):
        raise ValueError(f"--data {lab.data.name}: fewer than two labels; lower --min-per-label")
    modes = latent_classify.MODES if lab.is_dense else ("raw", "frozen")
    if unknown := set(options.modes) - set(modes):
        raise ValueError(f"--modes {', '.join(sorted(unknown))}: this model knows {', '.join(modes)}")
    settings = ClassifierSettings(options.updates, options.batch_size, options.classifier_learning_rate)
    models = lab.latents_of_seeds(options.seeds)
    runs, matrices, heads = [], {}, {}
    jobs = [(seed, mode, share) for seed in options.seeds for mode in options.modes for share in options.shares]
    for seed, mode, share in tqdm(jobs, desc="classifiers", unit="run"):
        own_train, own_test = train, test
        if isinstance(latents := models[seed], MusicLatents):
            own_train, own_test = lab.music_features(train, mode), lab.music_features(test, mode)
            classifier = latent_classify.LatentClassifier(own_train.values[0].size, len(names)).to(lab.device)
        else:
            classifier = latent_classify.make_classifier(mode, latents.model.encoder, len(names), seed)
        used = latent_classify.some_labels(own_train, share, seed)
        latent_classify.train_classifier(classifier, used, settings, seed)
        probabilities = latent_classify.predict(classifier, own_test)
        figures = latent_classify.scores(own_test.labels, probabilities.argmax(1), len(names))
        count = sum(parameter.numel() for parameter in classifier.parameters() if parameter.requires_grad)
        runs.append(
            {"seed": seed, "mode": mode, "share": share, "labels_used": len(used), "parameters": count, **figures}
        )
        if share == max(options.shares):
            matrices[mode] = matrices.get(mode, 0) + np.array(figures["confusion"])
            if seed == options.seeds[0] and mode in ("raw", "frozen"):
                heads[mode] = {name: tensor.cpu() for name, tensor in classifier.head.state_dict().items()}
    counts = np.bincount(train.labels, minlength=len(names))
    report = {
        "labels": names,
        "seeds": options.seeds,
        "latent_size": models[options.seeds[0]].latent_size,
        "settings": asdict(settings),
        "test_items": len(test),
        "majority": float((test.labels == counts.argmax()).mean()),
        "label_counts": {name: int(count) for name, count in zip(names, counts)},
        "note": lab.label_note,
        "summary": latent_classify.summary(runs),
        "confusion": {mode: matrix.tolist() for mode, matrix in matrices.items()},
        "runs": runs,
    }
    torch.save({"labels": names, "heads": heads}, lab.path("classifiers.pt"))
    latent_views.save_classes(report["summary"], lab.path("classify.png"), lab.data.name)
    report = lab.complete(report)
    lab.write("classify", report, latent_classify.to_markdown(report))
    return report


def plot_latent(lab: "Lab") -> dict[str, Any]:
    """Scatter of held-out means: their coordinates, or principal components when there are more than three."""
    items = lab.data.items(lab.options.split)
    if lab.data.label_names and (labelled := items.labelled()):
        items = labelled
    latents = lab.latents()
    codes = latents.codes(items.values)
    count, axis = min(3, codes.shape[1]), "z"
    shares = None
    points = codes[:, :count]
    if codes.shape[1] > 3:
        mean, directions, _, shares = principal_axes(codes, 3)
        points, axis = (codes - mean) @ directions.T, "principal component"
    title = f"{lab.data.name}: posterior means, {len(points)} {lab.options.split} items, J = {codes.shape[1]}"
    latent_views.save_scatter(points, items.labels, lab.data.label_names, lab.path("plot_latent.png"), title, axis)
    report = {
        "points": len(points),
        "latent_size": codes.shape[1],
        "explained_variance": None if shares is None else shares.tolist(),
        "active_units": int((codes.var(0, ddof=1) > 0.01).sum()),
        "coordinates": np.round(points, 4).tolist(),
        "labels": items.labels.tolist(),
        "label_names": lab.data.label_names,
    }
    explained = "" if shares is None else f", which hold {100 * float(shares.sum()):.1f} % of the variance"
    lab.write("plot_latent", report, f"# {title}\n\n{axis} 1 ... {count}{explained}.\n\n![scatter](plot_latent.png)\n")
    return report


def plot_manifold(lab: "Lab") -> dict[str, Any]:
    """A lattice of decoded points at quantiles 0.05 ... 0.95 of the prior, as a picture and, of music, as MIDI.

    With two dimensions these are the codes; with more, the plane of the two principal directions of the training means.
    """
    size, latents = lab.options.size, lab.latents()
    steps = torch.special.ndtri(torch.linspace(0.05, 0.95, size, dtype=torch.float64)).numpy()
    across, up = np.meshgrid(steps, steps[::-1])
    plane = np.stack([across.ravel(), up.ravel()], 1)
    if latents.latent_size != 2:
        codes = latents.codes(lab.data.items("train").values[: lab.options.manifold_items])
        mean, directions, deviations, _ = principal_axes(codes, 2)
        plane = mean + plane * deviations @ directions
    title = f"{lab.data.name}: {size} x {size} codes, quantiles 0.05 to 0.95"
    is_music = lab.data.processor is not None
    latent_views.save_mosaic(latents.pictures(plane), size, is_music, lab.path("plot_manifold.png"), title)
    text = f"# {title}\n\n![lattice](plot_manifold.png)\n"
    if is_music:
        score = joined_score(latents.scores(plane), lab.data.processor.num_steps)
        score.dump_midi(lab.path("plot_manifold.mid"))
        text += "\nplot_manifold.mid plays it row by row, from the top left.\n"
    report = {"size": size, "quantiles": [0.05, 0.95], "codes": np.round(plane, 4).tolist()}
    lab.write("plot_manifold", report, text)
    return report


def reconstruction_strip(lab: "Lab") -> dict[str, Any]:
    """Held-out items as they are rebuilt at epochs 0, 1, 10, 20, 40, 50 and the last."""
    fit = lab.fits([lab.settings()])[0]
    shots = fit.snapshots()
    rows = np.concatenate([shots["items"][None].astype(np.float32), shots["reconstructions"]])
    epochs = shots["epochs"].tolist()
    errors = np.abs(rows[1:] - rows[0]).mean(tuple(range(1, rows.ndim)))
    latent_views.save_mosaic(
        rows.reshape(-1, *rows.shape[2:]),
        rows.shape[1],
        lab.data.processor is not None,
        lab.path("reconstruction_strip.png"),
        f"{lab.data.name}: held-out items and their reconstructions, J = {fit.settings.latent_size}",
        ["item", *(f"epoch {epoch}" for epoch in epochs)],
    )
    report = {"epochs": epochs, "mean_absolute_error": errors.tolist(), "validation": fit.record.validation}
    table = markdown_table(["epoch", "mean absolute error per cell"], list(zip(epochs, errors.tolist())))
    title = f"# Reconstructions on {lab.data.name}\n\n![strip](reconstruction_strip.png)\n\n"
    lab.write("reconstruction_strip", report, title + table)
    return report


def samples(lab: "Lab") -> dict[str, Any]:
    """Draws of the prior for each latent size, a row each: means for images, the likeliest cells for music."""
    dims, count = sorted(set(lab.options.dims)), lab.options.count
    fits = lab.fits([lab.settings(latent_size=size) for size in dims])
    rows, counts = [], {}
    for fit in fits:
        generator = torch.Generator().manual_seed(fit.settings.seed)
        z = torch.randn(count, fit.settings.latent_size, generator=generator)
        drawn = DenseLatents(fit.model(), lab.data.processor).pictures(z.numpy())
        rows.append(drawn)
        counts[fit.settings.latent_size] = float((drawn > 0.5).reshape(count, -1).sum(1).mean())
    is_music = lab.data.processor is not None
    pictures = np.concatenate(rows)
    if is_music:
        pictures = (pictures > 0.5).astype(np.float32)
    names = [f"J = {size}" for size in dims]
    title = f"{lab.data.name}: draws of the prior"
    latent_views.save_mosaic(pictures, count, is_music, lab.path("samples.png"), title, names)
    true = float(
        (lab.data.splits["validation"].values > 0.5).reshape(len(lab.data.splits["validation"]), -1).sum(1).mean()
    )
    report = {"dims": dims, "cells_on": counts, "cells_on_held_out": true}
    table = markdown_table(["J", "cells above 1/2, mean of an item"], [["held-out items", true], *counts.items()])
    lab.write("samples", report, f"# {title}\n\n![samples](samples.png)\n\n{table}")
    return report


def denoise(lab: "Lab") -> dict[str, Any]:
    """Damaged held-out items: F1 of copying them, of a VAE that never saw damage, and of one trained to repair it."""
    options = lab.options
    items = lab.data.splits["test"].values
    kinds = [(kind, options.damage_share) for kind in options.damage]
    whole, *repairers = lab.fits([lab.settings(), *(lab.settings(damage=k, damage_share=share) for k, share in kinds)])
    rows, shown = [], [items[:8].astype(np.float32)]
    for (kind, share), repairer in zip(kinds, repairers):
        damaged, struck = damage(items, kind, share, np.random.default_rng(options.seeds[0]))
        found = {"copy": damaged, "silence": np.zeros_like(damaged)}
        for name, fit in (("VAE", whole), ("denoising VAE", repairer)):
            model = fit.model()
            found[name] = by_rows(lambda part, m=model: m.draw(m.decode(m.features(part)), 0.0), damaged, lab.device)
        for name, values in found.items():
            figures = {"f1_struck": cell_f1(items, values, struck), "f1_all": cell_f1(items, values)}
            rows.append({"damage": kind, "share": share, "what": name, **figures})
        shown += [damaged[:8].astype(np.float32), found["denoising VAE"][:8]]
    header = ["damage", "share", "what", "F1, struck cells", "F1, all cells"]
    table = markdown_table(header, [list(row.values()) for row in rows])
    names = ["item", *(f"{text}{kind}" for kind, _ in kinds for text in ("", "repaired "))]
    title = f"{lab.data.name}: denoising, J = {whole.settings.latent_size}"
    is_music = lab.data.processor is not None
    latent_views.save_mosaic(np.concatenate(shown), len(shown[0]), is_music, lab.path("denoise.png"), title, names)
    note = "Of dropped and masked notes copying finds none, by construction: see F1 of all cells."
    lab.write("denoise", {"rows": rows}, f"# {title}\n\n{len(items):,} test items. {note}\n\n{table}")
    return {"rows": rows}


def restore(lab: "Lab") -> dict[str, Any]:
    """Held-out items with missing cells: cost and F1 of the hidden cells, by model and method."""
    options, share = lab.options, lab.options.hide_share
    items = lab.data.splits["test"].values
    settings = [lab.settings(), lab.settings(hide_share=share, mask_as_input=True)]
    whole, incomplete = (fit.model() for fit in lab.fits(settings))
    frequency = lab.data.splits["train"].values.mean(0, dtype=np.float64)
    rows = []
    for kind in options.hide:
        hidden = hidden_mask(items.shape, share, kind, np.random.default_rng(options.seeds[0]))
        found = {"frequency of the cell": np.broadcast_to(frequency, items.shape)}
        methods = (
            ("VAE, one pass", whole, "chain", 1),
            (f"VAE, {options.passes} passes", whole, "chain", options.passes),
            (f"VAE, code optimised in {options.steps} steps", whole, "optimise", options.steps),
            ("VAE of incomplete items, one pass", incomplete, "chain", 1),
            (
                f"VAE of incomplete items, code optimised in {options.steps} steps",
                incomplete,
                "optimise",
                options.steps,
            ),
        )
        for name, model, method, steps in tqdm(methods, desc=f"hidden {kind}"):
            parts = []
            for start in range(0, len(items), 500):
                values, seen = (torch.from_numpy(a[start : start + 500]).to(lab.device) for a in (items, ~hidden))
                parts.append(model.restore(values.float(), seen, method, steps).cpu().numpy())
            found[name] = np.concatenate(parts)
        for name, values in found.items():
            cost, f1 = hidden_cost(items, values, hidden), cell_f1(items, values, hidden)
            rows.append({"hidden": kind, "share": share, "method": name, "bits_per_cell": cost, "f1": f1})
    header = ["hidden", "share", "method", "bits per hidden cell", "F1, hidden cells"]
    text = f"# Missing cells on {lab.data.name}, {len(items):,} test items\n\n"
    lab.write("restore", {"rows": rows}, text + markdown_table(header, [list(row.values()) for row in rows]))
    return {"rows": rows}


def explore(lab: "Lab") -> None:
    """Sliders for the dimensions, in the browser: grid, sound, MIDI and, after classify, what it is taken for."""
    latents, names = lab.latents(), lab.data.label_names
    items = lab.data.items(lab.options.split)
    items = spread(items, 500)
    heads = latent_explorer.read_heads(lab.path(latent_explorer.HEADS_FILE), latents, names)
    explorer = latent_explorer.Explorer(latents, items, names, heads, lab.options.sliders)
    page = latent_explorer.build_page(explorer, f"{lab.data.name}: {latents.latent_size} dimensions")
    page.launch(server_name=lab.options.host, server_port=lab.options.port)


def inference_gap(lab: "Lab") -> dict[str, Any]:
    """Amortised bound, bound optimised item by item, importance-weighted bound."""
    options, latents = lab.options, lab.latents()
    if not isinstance(latents, DenseLatents):
        raise ValueError(f"--model {latents.name}: inference_gap needs a dense VAE")
    values = spread(lab.data.items(options.split), options.items).values
    bounds = latent_bounds.inference_gap(
        latents.model,
        values,
        options.importance_samples,
        options.steps,
        seed=options.seeds[0],
        show_progress=True,
    )
    report = {
        "bounds": bounds,
        "items": len(values),
        "split": options.split,
        "importance_samples": options.importance_samples,
        "steps": options.steps,
        "model": latents.name,
    }
    report = lab.complete(report)
    lab.write("inference_gap", report, latent_bounds.to_markdown(report))
    return report
