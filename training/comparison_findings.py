"""Sentences that say what a comparison has found, made from its figures, so that they never contradict them."""

from typing import Any

from partimento.training.form_comparison import HELD_OUT


def findings(report: dict[str, Any]) -> list[str]:
    """Order of the models, the gap at song length, what position in the song changes, copies, and speed."""
    models = report["models"]
    bits = {name: model["figures"]["bits_per_bar"]["mean"] for name, model in models.items()}
    ranked = sorted(bits, key=lambda name: bits[name])
    sentences = ["Bits per bar, fewest first: " + ", ".join(f"{name} {bits[name]:.1f}" for name in ranked) + "."]
    sentences += [gap_sentence(report, name) for name in ranked if name != report["reference"]]
    sentences += [position_sentence(models)]
    if report.get("form"):
        sentences.append(copy_sentence(report["form"]["sets"]))
    sentences.append(speed_sentence(models))
    return [sentence for sentence in sentences if sentence]


def gap_sentence(report: dict[str, Any], name: str) -> str:
    """The difference to the reference on all songs, and on the longest ones."""
    reference, model = report["reference"], report["models"][name]
    whole = verdict(model["difference"])
    sentence = f"{reference} {whole} {name}: {amount(model['difference'])} bits per bar on all songs"
    group, longest = list(model["difference_by_length"].items())[-1]
    if longest["songs"] < model["difference"]["songs"]:
        sentence += f"; on the {longest['songs']} of {group} tokens it {verdict(longest)} it: {amount(longest)}"
    return sentence + "."


def verdict(difference: dict[str, Any]) -> str:
    """`beats` or `loses to`, where the difference is more than two standard errors."""
    value, error = difference["bits_per_bar"], difference["standard_error"]
    if error is None or abs(value) <= 2 * error:
        return "cannot be told from"
    return "beats" if value > 0 else "loses to"


def amount(difference: dict[str, Any]) -> str:
    error = difference["standard_error"]
    return f"{difference['bits_per_bar']:+.1f}" + ("" if error is None else f" ± {error:.1f}")


def position_sentence(models: dict[str, Any]) -> str:
    """How much cheaper the last interval of bars is than the first: what a past is worth to each model."""
    parts = []
    for name, model in models.items():
        groups = list(model["by_bar"].items())
        if len(groups) > 1:
            (first, early), (last, late) = groups[0], groups[-1]
            parts.append(f"{name} {late['nats_per_token']['mean'] - early['nats_per_token']['mean']:+.2f}")
    if not parts:
        return ""
    return f"Nats per token in bars {last} less those in bars {first} (other songs reach them): {', '.join(parts)}."


def copy_sentence(sets: dict[str, Any]) -> str:
    """Median of the longest copied spans beside that of held-out songs."""
    spans = {name: figures["copies"]["notes"]["median"] for name, figures in sets.items()}
    own = spans.pop(HELD_OUT, None)
    listed = ", ".join(f"{name} {length:g}" for name, length in spans.items())
    beside = "" if own is None else f"; held-out songs of the same length {own:g}"
    return f"Longest span of a training song in a sample, median in notes: {listed}{beside}."


def speed_sentence(models: dict[str, Any]) -> str:
    """The fastest and the slowest network in training, and in generation."""
    training = {n: m["speed"]["training"]["mean"] for n, m in models.items() if m["curve"] and m["speed"]["training"]}
    writing = {n: m["speed"]["generation"]["mean"] for n, m in models.items() if m["curve"]}
    if len(training) < 2:
        return ""
    fast, slow = max(training, key=lambda n: training[n]), min(training, key=lambda n: training[n])
    quick, slack = min(writing, key=lambda n: writing[n]), max(writing, key=lambda n: writing[n])
    return (
        f"Of the networks {fast} trains fastest ({training[fast]:,.0f} tokens/s) and {slow} slowest "
        f"({training[slow]:,.0f}); {quick} writes fastest ({writing[quick]:.1f} ms a token) and {slack} slowest "
        f"({writing[slack]:.1f})."
    )
