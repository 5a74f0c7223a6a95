"""State of a recurrent network between two calls: what `generate` passes on, and what truncated BPTT carries.

Each layer keeps h `[batch, hidden]`, an LSTM also its memory c, and the number of steps read so far.
"""

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

State = tuple[torch.Tensor, ...]  # (h,) or (h, c), each [batch, hidden]


class RecurrentCacheLayer(CacheLayerMixin):
    """State of one layer; `state` is `None` before the first step."""

    is_compileable = False
    is_croppable = False

    def __init__(self):
        super().__init__()
        self.reset()

    def lazy_initialization(self, *args) -> None:
        self.is_initialized = True

    def update(self, state: State, num_steps: int) -> State:
        """Replace the state after `num_steps` more steps."""
        self.state, self.num_steps, self.is_initialized = state, self.num_steps + num_steps, True
        return state

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.num_steps + query_length, 0

    def get_seq_length(self) -> int:
        return self.num_steps

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.state: State | None = None
        self.num_steps = 0

    def offload(self) -> None:
        """Nothing to gain: a state is no longer than one step."""

    def prefetch(self) -> None:
        """See `offload`."""

    def map(self, function) -> None:
        if self.state is not None:
            self.state = tuple(function(tensor) for tensor in self.state)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Row i becomes the former row `beam_idx[i]`."""
        self.map(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.map(lambda tensor: tensor[indices.to(tensor.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.map(lambda tensor: tensor.repeat_interleave(repeats, 0))


class RecurrentCache(Cache):
    """Cache of `RecurrentModel`, created by the model itself. It cannot be cropped: a state forgets how it came about.

    Args:
        num_layers: layers of the model.
    """

    def __init__(self, num_layers: int):
        super().__init__(layers=[RecurrentCacheLayer() for _ in range(num_layers)])

    @property
    def states(self) -> list[State | None]:
        """The layers' states, as (h,) or (h, c), each `[batch, hidden]`."""
        return [layer.state for layer in self.layers]

    def detach_(self) -> "RecurrentCache":
        """Cut the states from the graph that made them: the border of a truncated BPTT window."""
        for layer in self.layers:
            layer.map(torch.Tensor.detach)
        return self

    def zero_rows_(self, rows: torch.Tensor) -> "RecurrentCache":
        """Put `rows` `[batch]` (bool) back to the initial state, zero."""
        for layer in self.layers:
            layer.map(lambda tensor: tensor.masked_fill(rows.to(tensor.device)[:, None], 0))
        return self

    def crop(self, *args, **kwargs) -> None:
        raise ValueError("RecurrentCache cannot be cropped: a state forgets how it came about")


__all__ = ["RecurrentCache"]
