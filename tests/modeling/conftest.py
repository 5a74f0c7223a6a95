"""Random rows with known bars, small models, and the visibility rule written out token by token."""

import pytest
import torch

from partimento.modeling import MuseformerConfig, MuseformerForCausalLM

PAD, BOS, EOS, BAR, POSITION = 0, 1, 2, 4, 5
NUM_POSITIONS, NOTE, VOCAB = 48, 53, 96

ABLATIONS = {
    "museformer": {},
    "no_coarse": {"coarse_attention": False},
    "last_eight_fine": {"fine_offsets": tuple(range(1, 9))},
    "full": {"fine_offsets": None},
    "every_fourth": {"fine_offsets": tuple(range(4, 41, 4))},
}


def row(lengths, prefix=2, eos=True, seed=0):
    """BOS and prefix - 1 others, then bars of the given lengths (Bar included), then EOS."""
    generator = torch.Generator().manual_seed(seed)
    ids = [BOS, *torch.randint(NOTE, VOCAB, (prefix - 1,), generator=generator).tolist()]
    for length in lengths:
        ids += [BAR, *torch.randint(POSITION, VOCAB, (length - 1,), generator=generator).tolist()]
    return ids + [EOS] * eos


def random_row(num_bars, low=1, high=9, seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return row(torch.randint(low, high, (num_bars,), generator=generator).tolist(), seed=seed, **kwargs)


def stack(rows, left=True):
    """Padded ids and attention mask, `[B, n]` each."""
    width = max(map(len, rows))
    pads = [[PAD] * (width - len(ids)) for ids in rows]
    ids = torch.tensor([pad + ids if left else ids + pad for pad, ids in zip(pads, rows)])
    mask = torch.tensor([[int(bool(t)) for t in (pad + ids if left else ids + pad)] for pad, ids in zip(pads, rows)])
    return ids, mask


def ragged_rows():
    """Many bars, few, one long bar, none at all, bars of one token, no EOS."""
    return [
        random_row(40, seed=1),
        random_row(3, seed=2),
        row([43], seed=3),
        row([], prefix=5, seed=4),
        row([1, 1, 1, 1, 1, 7, 1], seed=5),
        random_row(11, seed=6, eos=False),
    ]


def tiny_config(**overrides):
    settings = {"vocab_size": VOCAB, "dropout": 0.0, "attention_dropout": 0.0, **overrides}
    return MuseformerConfig.from_preset("tiny", **settings)


def tiny_model(implementation="auto", dtype=torch.float64, seed=0, **overrides):
    torch.manual_seed(seed)
    model = MuseformerForCausalLM(tiny_config(**overrides)).to(dtype).eval()
    model.set_attn_implementation(implementation)
    return model


def naive_ids(ids, mask):
    """Bar and beat ids by walking over the tokens."""
    bars, beats, bar, beat = [], [], 0, 0
    for token, present in zip(ids, mask):
        if not present or token == PAD:
            bars.append(-1), beats.append(0)
            continue
        if token == BAR:
            bar, beat = bar + 1, 0
        elif POSITION <= token < POSITION + NUM_POSITIONS and bar > 0:
            beat = token - POSITION + 1
        bars.append(bar), beats.append(0 if token == EOS else beat)
    return bars, beats


def naive_sees(config, query, key, bars):
    """Whether the token at index `query` sees the token at index `key`."""
    if bars[query] < 0 or bars[key] < 0:
        return query == key
    if bars[key] == 0 or bars[key] == bars[query]:
        return key <= query
    if bars[query] == 0:
        return False
    delta = bars[query] - bars[key]
    return delta > 0 and (config.fine_offsets is None or delta in config.fine_offsets)


def naive_sees_summary(config, query, bar, bars):
    """Whether the token at index `query` sees the summary of `bar`."""
    delta = bars[query] - bar
    fine = config.fine_offsets is None or delta in config.fine_offsets
    return config.coarse_attention and bars[query] > 0 and delta >= 1 and not fine


@pytest.fixture
def toy():
    """The helpers above, for tests that are imported without a package."""
    from types import SimpleNamespace

    return SimpleNamespace(**{k: v for k, v in globals().items() if not k.startswith("_")})


@pytest.fixture(params=ABLATIONS)
def ablation(request):
    return ABLATIONS[request.param]
