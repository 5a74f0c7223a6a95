"""Exact incremental state of a Museformer.

Per layer and row the cache keeps

    slots      k, v of the prefix, of the last max(D) bars and of the current bar, each tagged with its bar
    summaries  the re-projected k2, v2 of every finished bar
    visible    the keys the current bar sees, side by side: one coarse or fine row after the other, then the bar itself

and per row the state of the id scans. The visible rows are gathered anew when a bar starts and grow with the bar, so
a token costs one append and one attention over them, whatever the length of the song. Slots of bars that no later
bar can see are marked dead and squeezed out when a quarter is dead. Buffers grow by a quarter, never per token.

Legend: B rows, d hidden size, m slots, c finished bars, L visible rows, h heads.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

from typing import Any

import torch
from transformers.cache_utils import Cache

from .decoding_museformer import StepWeights
from .products_museformer import WEIGHTS, streams
from .structure_museformer import SegmentState, fine_and_coarse
from .visible_museformer import VisibleRows, VisibleStreams, grown


class MuseformerCache(Cache):
    """Cache of `MuseformerModel`, created by the model itself. It cannot be cropped: finished bars are summarised.

    Args:
        config: `MuseformerConfig` of the model.
        weights: what single tokens are decoded with. `exact`: the model's weights. `half` (one row) and `int8`: rounded
            copies of the layers' matrices and, for one row, of the visible keys; faster on a CPU and not exact. Pass
            `MuseformerCache(model.config, weights="half")` to `generate` as `past_key_values`. Prompts, and with
            `half` several rows, always run on the model's weights.

    Raises:
        ValueError: unknown `weights`.
    """

    is_compileable = False
    is_croppable = False
    slot_bars: Any  # [B, capacity], None before the first token, as are the others
    slot_eos: Any  # [B, capacity]
    num_slots: Any  # [B], as are the others
    num_closed: Any
    num_visible: Any

    def __init__(self, config, weights: str = "exact"):
        if weights not in WEIGHTS:
            raise ValueError(f"weights={weights!r} is not one of {', '.join(WEIGHTS)}")
        super().__init__(layers=[])
        self.config, self.weights = config, weights
        self.reset()

    def reset(self):
        """Forget everything."""
        num_layers = self.config.num_hidden_layers
        self.length = 0
        self.state: SegmentState | None = None
        self.bar_offset: torch.Tensor | None = None
        self.bar_rows: torch.Tensor | None = None  # [B, d], see `StepWeights.embed_bars`; of the current bars
        self.step_weights: StepWeights | None = None
        self._modules_are_plain: bool | None = None
        self._host_state: tuple[list[int], list[int]] | None = None  # `state` as numbers
        self.slot_bars = self.slot_eos = self.num_slots = self.num_closed = self.num_visible = None
        self.max_slots = self.max_closed = self.max_visible = 0  # host copies of the maxima over rows
        self.slots: list[torch.Tensor | None] = [None] * num_layers  # [B, capacity, 2 d]
        self.summaries: list[torch.Tensor | None] = [None] * num_layers  # [B, capacity, 2 d]
        self.visible: VisibleRows | VisibleStreams | None = None
        self.step_mask: torch.Tensor | None = None
        self._staged_contents: list[torch.Tensor | None] = [None] * num_layers
        self._staged_summaries: list[torch.Tensor | None] = [None] * num_layers

    # what generate() asks for

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.length + query_length, 0

    def __len__(self) -> int:
        return self.config.num_hidden_layers

    @property
    def batch_size(self) -> int:
        return -1 if self.state is None else len(self.state.bar)

    @property
    def is_initialized(self) -> bool:
        return self.length > 0

    def crop(self, tokens_to_remove: int) -> None:
        raise ValueError("MuseformerCache cannot be cropped: finished bars are summarised, evicted bars are gone")

    def update(self, *args, **kwargs):
        raise ValueError("MuseformerCache is written by MuseformerModel only")

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Row i becomes the former row `beam_idx[i]`."""
        if self.state is None:
            return
        beam_idx = beam_idx.to(self.state.bar.device)
        if torch.equal(beam_idx, torch.arange(self.batch_size, device=beam_idx.device)):
            return
        self._map(lambda t: t.index_select(0, beam_idx))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.state is not None:
            self._map(lambda t: t[indices.to(t.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.state is not None:
            self._map(lambda t: t.repeat_interleave(repeats, 0))

    def _map(self, function):
        self.state = SegmentState(*(function(t) for t in self.state))
        self.bar_rows = self._host_state = None
        for name in ("bar_offset", "slot_bars", "slot_eos", "num_slots", "num_closed", "num_visible"):
            if (tensor := getattr(self, name)) is not None:
                setattr(self, name, function(tensor))
        for name in ("slots", "summaries"):
            setattr(self, name, [None if t is None else function(t) for t in getattr(self, name)])
        if isinstance(self.visible, VisibleRows):
            self.visible.mapped(function)
        elif self.batch_size > 1:  # laid out for one row, as are the weights
            self.visible = self.step_weights = self._modules_are_plain = None
            self._gather_visible(torch.arange(self.batch_size))
        counts = torch.stack([self.num_slots, self.num_closed, self.num_visible]).amax(1)
        self.max_slots, self.max_closed, self.max_visible = counts.tolist()

    def num_values(self) -> int:
        """Numbers held per row in slots, summaries and visible rows, without spare capacity."""
        per_layer = 2 * self.config.hidden_size
        return self.config.num_hidden_layers * per_layer * (self.max_slots + self.max_closed + self.max_visible)

    # many tokens at once: the model extends the stored keys, runs, then commits

    def stored_bars(self, rows: int, device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Bars and EOS flags of the slots `[B, m]`, and bars of the finished summaries `[B, c]` (0 where absent)."""
        if self.state is None:
            none = torch.zeros(rows, 0, dtype=torch.long, device=device)
            return none, none.bool(), none
        if rows != self.batch_size:
            raise ValueError(f"input_ids has {rows} rows, past_key_values {self.batch_size}")
        bars = torch.arange(1, self.max_closed + 1, device=device)
        closed = torch.where(bars <= self.num_closed[:, None], bars, 0)
        return self.slot_bars[:, : self.max_slots], self.slot_eos[:, : self.max_slots], closed

    def extend_contents(self, layer: int, new: torch.Tensor) -> torch.Tensor:
        """Stored and new k, v of contents: `[B, m + q, 2 d]`."""
        if self.slots[layer] is not None:
            new = torch.cat([self.slots[layer][:, : self.max_slots], new.to(self.slots[layer].dtype)], 1)
        self._staged_contents[layer] = new.detach()
        return new

    def extend_summaries(self, layer: int, new: torch.Tensor | None) -> torch.Tensor | None:
        """Stored and new k2, v2: `[B, c + s, 2 d]`."""
        if new is not None:
            self._staged_summaries[layer] = new.detach()
        if self.max_closed == 0:
            return new
        stored = self.summaries[layer][:, : self.max_closed]
        return stored if new is None else torch.cat([stored, new.to(stored.dtype)], 1)

    def commit(self, key_bars, key_eos, column_bars, num_new: int, state: SegmentState) -> None:
        """Keep what the model just computed for `num_new` tokens per row; see the module docstring."""
        self.length += num_new
        self.state = state
        self.bar_rows = self._host_state = None
        self._store_summaries(column_bars)
        self._compact(self._alive(key_bars), key_bars, key_eos, self._staged_contents)
        self._staged_contents = [None] * len(self)
        self._gather_visible(torch.arange(len(state.bar), device=key_bars.device))

    def _alive(self, bars):
        """Which of the slots `[B, m]` the current or a later bar can see."""
        alive = bars >= 0
        if (span := self.config.attention_span) is not None:
            alive &= (bars == 0) | (bars >= self.state.bar[:, None] - span)
        return alive

    def _store_summaries(self, column_bars) -> None:
        if self.num_closed is None:
            self.num_closed = torch.zeros_like(self.state.bar)
        if column_bars.shape[1]:
            row, column = (column_bars >= 1).nonzero(as_tuple=True)
            bar = column_bars[row, column]
            self.num_closed = torch.maximum(self.num_closed, column_bars.max(1).values)
            self.max_closed = int(self.num_closed.max())
            for layer, new in enumerate(self._staged_summaries):
                buffer = grown(self.summaries[layer], new, self.max_closed)
                buffer[row, bar - 1] = new[row, column].to(buffer.dtype)
                self.summaries[layer] = buffer
        self._staged_summaries = [None] * len(self)

    def _compact(self, alive, bars, eos, contents) -> None:
        """Keep the living of `contents`, per layer `[B, m, 2 d]`, with room to grow."""
        self.num_slots = alive.sum(1)
        self.max_slots = m = int(self.num_slots.max())
        order = (~alive).to(torch.uint8).argsort(dim=1, stable=True)[:, :m]
        present = torch.arange(m, device=alive.device) < self.num_slots[:, None]
        spare = m // 4 + 64
        self.slot_bars = torch.nn.functional.pad(bars.gather(1, order).masked_fill(~present, -1), (0, spare), value=-1)
        self.slot_eos = torch.nn.functional.pad(eos.gather(1, order) & present, (0, spare))
        for layer, old in enumerate(contents):
            buffer = old.new_zeros(len(old), m + spare, old.shape[2])
            torch.gather(old, 1, order[:, :, None].expand(-1, -1, old.shape[2]), out=buffer[:, :m])
            self.slots[layer] = buffer

    def _gather_visible(self, rows) -> None:
        """Collect the keys that the current bar of `rows` sees."""
        if self.num_visible is None:
            self.num_visible = torch.zeros_like(self.state.bar)
        current = self.state.bar[rows]
        fine, coarse = fine_and_coarse(self.config, int(current.max()) + 1, rows.device)
        bars = self.slot_bars[rows, : self.max_slots]
        contents = fine[current[:, None], bars]  # -1 is the last column: padding
        bars = torch.arange(1, self.max_closed + 1, device=rows.device)
        closed = bars <= self.num_closed[rows, None]
        coarse = coarse[current[:, None], torch.where(closed, bars, -1)]
        row, source = coarse.nonzero(as_tuple=True)
        place = (coarse.cumsum(1) - 1)[row, source]
        row_2, source_2 = contents.nonzero(as_tuple=True)
        place_2 = (contents.cumsum(1) - 1 + coarse.sum(1, keepdim=True))[row_2, source_2]
        total = coarse.sum(1) + contents.sum(1)
        self.num_visible[rows] = total
        self.max_visible = int(self.num_visible.max())
        if self.visible is None:
            self.visible = self._new_visible()
        self.visible.open(self.max_visible, keep=False)
        row, row_2 = rows[row], rows[row_2]
        for layer, (slots, summaries) in enumerate(zip(self.slots, self.summaries)):
            if len(row):
                self.visible.write(layer, row, place, summaries[row, source])
            self.visible.write(layer, row_2, place_2, slots[row_2, source_2])

    def _new_visible(self) -> VisibleRows | VisibleStreams:
        heads, like = self.config.num_attention_heads, self.slots[0]
        if streams(self.batch_size, like):
            return VisibleStreams(self.slots, heads, like.dtype if self.weights == "exact" else torch.float16)
        return VisibleRows(self.slots, heads)

    # a single token that starts a bar: close the old bar, then take a step

    def own_bar(self, rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots `[R, m]` of the current bar of `rows`, EOS excluded, and which of them are there."""
        own = self.slot_bars[rows, : self.max_slots] == self.state.bar[rows, None]
        own &= ~self.slot_eos[rows, : self.max_slots]
        count = own.sum(1)
        m = int(count.max())
        order = (~own).to(torch.uint8).argsort(dim=1, stable=True)[:, :m]
        return order, torch.arange(m, device=own.device) < count[:, None]

    def add_summary(self, layer: int, rows, new: torch.Tensor) -> None:
        """Store k2, v2 `[R, 2 d]` of the current bar of `rows`."""
        bars = self.state.bar[rows]
        slots = self.slots[layer]
        self.summaries[layer] = grown(self.summaries[layer], slots, max(self.max_closed, int(bars.max())))
        self.summaries[layer][rows, bars - 1] = new.detach().to(slots.dtype)

    def start_bars(self, bars: list[int], beats: list[int], rows: list[int]) -> None:
        """`rows` enter the next bar: their summaries are complete, slots out of reach die, other keys are visible."""
        device = self.state.bar.device
        state, rows = SegmentState(*torch.tensor([bars, beats], device=device)), torch.tensor(rows, device=device)
        if self.config.uses_summaries:
            self.num_closed[rows] = self.state.bar[rows]
            self.max_closed = int(self.num_closed.max())
        self.state, self._host_state, self.bar_rows = state, (bars, beats), None
        bars = self.slot_bars[:, : self.max_slots]
        alive = self._alive(bars)
        if int((~alive).sum()) * 4 >= alive.numel():
            eos = self.slot_eos[:, : self.max_slots]
            self._compact(alive, bars, eos, [slots[:, : self.max_slots] for slots in self.slots])
        else:
            bars.masked_fill_(~alive, -1)
        self._gather_visible(rows)

    # one token per row inside a bar: the hot path

    def host_state(self, rows: int) -> tuple[list[int], list[int]]:
        """`state` as numbers, so that a step waits for the device once, for its tokens."""
        if rows != self.batch_size:
            raise ValueError(f"input_ids has {rows} rows, past_key_values {self.batch_size}")
        if self._host_state is None:
            self._host_state = self.state.bar.tolist(), self.state.beat.tolist()
        return self._host_state

    def lay_out_weights(self, model) -> bool:
        """Copy the weights of `model` for steps, once; false where its modules have to be called.

        Raises:
            ValueError: `int8` for a model that is not on a CPU, or whose modules have to be called.
        """
        if self._modules_are_plain is None:
            self._modules_are_plain = StepWeights.supports(model)
            if self.weights != "exact" and not (self._modules_are_plain and model.device.type == "cpu"):
                raise ValueError(
                    f"weights={self.weights!r} needs a model on a CPU without hooks, adapters or offloading"
                )
            if self._modules_are_plain:
                self.step_weights = StepWeights(model, self.weights, self.batch_size)
        return self._modules_are_plain

    def begin_step(self, beats: list[int], bars: list[int], is_eos: list[bool]) -> None:
        """Make room for one token per row, bars `[B]` (-1 for padding), none of which starts a bar.

        Padding is written behind the last entry of its row, for itself to see, and overwritten by the next token.
        """
        device = self.state.bar.device
        present = [bar >= 0 for bar in bars]
        if self.max_slots + 1 > self.slot_bars.shape[1]:
            spare = self.max_slots // 4 + 64
            self.slot_bars = torch.nn.functional.pad(self.slot_bars, (0, spare), value=-1)
            self.slot_eos = torch.nn.functional.pad(self.slot_eos, (0, spare))
            self.slots = [grown(t, t, self.slot_bars.shape[1], exact=True) for t in self.slots]
        self.visible.open(self.max_visible + 1)
        self.step_mask = None
        if len(bars) == 1:  # plain slices: the row's counts are the maxima, and all it sees is visible
            self._row, self._slot, self._place = None, self.max_slots, self.max_visible
            self.slot_bars[0, self._slot] = bars[0]
            self.slot_eos[0, self._slot] = is_eos[0]
            if not present[0]:
                self.step_mask = torch.arange(self.visible.length, device=device)[None, None, None] == self._place
        else:
            self._row = torch.arange(len(bars), device=device)
            self._slot, self._place = self.num_slots.clone(), self.num_visible.clone()
            numbers = torch.tensor([bars, is_eos], device=device)
            self.slot_bars[self._row, self._slot] = numbers[0]
            self.slot_eos[self._row, self._slot] = numbers[1].bool()
            order = torch.arange(self.visible.length, device=device)
            shown = order <= self.num_visible[:, None]
            if not all(present):  # padding sees itself only
                shown = torch.where(numbers[0, :, None] < 0, order == self.num_visible[:, None], shown)
            self.step_mask = shown[:, None, None]
        if all(present):
            self.num_slots += 1
            self.num_visible += 1
        elif any(present):
            added = torch.tensor(present, device=device).long()
            self.num_slots += added
            self.num_visible += added
        self.state = SegmentState(self.state.bar, torch.tensor(beats, device=device))
        self._host_state = self.host_state(len(bars))[0], beats
        self.length += 1
        self.max_slots += any(present)
        self.max_visible += any(present)

    def append(self, layer: int, new: torch.Tensor) -> None:
        """Store k, v `[B, 2 d]` of the token."""
        slots = self.slots[layer]
        new = new.detach().to(slots.dtype)
        if self._row is None:
            slots[:, self._slot] = new
        else:
            slots[self._row, self._slot] = new
        self.visible.append(layer, self._row, self._place, new)

    def shown(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Visible keys and values `[B, h, L, d / h]`."""
        return self.visible.shown(layer)

    def attend(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        """Step C of scaled queries `[B, d]` over what is visible, `[B, d]`."""
        return self.visible.attend(layer, query, self.step_mask)


__all__ = ["MuseformerCache"]
