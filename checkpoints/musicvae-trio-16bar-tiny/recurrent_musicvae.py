"""Recurrent layers of MusicVAE: whole sequences, or step by step with what does not change computed once.

Legend: B rows, T steps, I input width, H hidden size, V ids, C constant input width, S width of a whole state.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class ThesisGRU(nn.Module):
    """Gated recurrent unit with the reset gate applied before the recurrent product:

        r = sigmoid(W_r x + U_r h),  u = sigmoid(W_u x + U_u h)
        c = tanh(W_c x + U_c (r * h)),  h' = (1 - u) h + u c

    The unit of Cho et al. 2014 in the convention of Martin Ruiz 2020; `nn.GRU` differs in both respects.
    """

    num_states = 1

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool = False):
        super().__init__()
        self.hidden_size, self.bidirectional = hidden_size, bidirectional
        for suffix in ("_l0", "_l0_reverse")[: 1 + bidirectional]:
            self.register_parameter(f"weight_ih{suffix}", nn.Parameter(torch.empty(3 * hidden_size, input_size)))
            self.register_parameter(f"weight_hh{suffix}", nn.Parameter(torch.empty(3 * hidden_size, hidden_size)))
            self.register_parameter(f"bias_ih{suffix}", nn.Parameter(torch.empty(3 * hidden_size)))

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, ...] | None = None):
        """`[B, T, I]` and `([B, H],)` or None to outputs `[B, T, H]` (both directions side by side) and the state."""
        outputs, state = self._run(x, state, "_l0")
        if self.bidirectional:
            backward, _ = self._run(x.flip(1), None, "_l0_reverse")
            outputs = torch.cat([outputs, backward.flip(1)], -1)
        return outputs, state

    def _run(self, x, state, suffix):
        gates = F.linear(x, getattr(self, f"weight_ih{suffix}"), getattr(self, f"bias_ih{suffix}"))
        weight = getattr(self, f"weight_hh{suffix}")
        state = state or (gates.new_zeros(len(x), self.hidden_size),)
        outputs = []
        for gate in gates.unbind(1):
            state = self.cell(gate, weight, state)
            outputs.append(state[0])
        return torch.stack(outputs, 1), state

    def cell(self, gates: torch.Tensor, weight: torch.Tensor, state: tuple[torch.Tensor, ...]):
        """One step: input products with bias `[B, 3H]`, recurrent weight `[3H, H]`, state `([B, H],)`."""
        (h,) = state
        size = self.hidden_size
        update_reset = torch.sigmoid(gates[:, : 2 * size] + F.linear(h, weight[: 2 * size]))
        reset, update = update_reset.chunk(2, 1)
        candidate = torch.tanh(gates[:, 2 * size :] + F.linear(reset * h, weight[2 * size :]))
        return (torch.lerp(h, candidate.to(h.dtype), update.to(h.dtype)),)

    def input_bias(self) -> torch.Tensor:
        return self.bias_ih_l0


class LSTMLayer(nn.LSTM):
    """One layer of `nn.LSTM` (gates i, f, g, o) whose cell can also be run alone."""

    num_states = 2

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool = False):
        super().__init__(input_size, hidden_size, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, ...] | None = None):  # type: ignore[override]
        """`[B, T, I]` and `(c, h)` `[B, H]` or None to outputs `[B, T, H]` (directions side by side) and the state."""
        initial = None
        if state is not None:
            c, h = (part.to(x.dtype).unsqueeze(0).contiguous() for part in state)
            initial = (h, c)
        outputs, (h, c) = super().forward(x, initial)
        return outputs, (c[0], h[0])

    def cell(self, gates: torch.Tensor, weight: torch.Tensor, state: tuple[torch.Tensor, ...]):
        """One step: input products with biases `[B, 4H]`, recurrent weight `[4H, H]`, state `(c, h)`."""
        c, h = state
        i, f, g, o = (gates + F.linear(h, weight)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return c, torch.sigmoid(o) * torch.tanh(c)

    def input_bias(self) -> torch.Tensor:
        return torch.add(self.bias_ih_l0, self.bias_hh_l0)


CELLS = {"lstm": LSTMLayer, "gru_thesis": ThesisGRU}


class RecurrentStack(nn.Module):
    """Layers on top of each other. The state is one tuple over all layers: c0, h0, c1, h1 ... or h0, h1 ..."""

    def __init__(
        self, input_size: int, hidden_sizes, cell_type: str, dropout: float = 0.0, bidirectional: bool = False
    ):
        super().__init__()
        self.dropout = dropout
        inputs = [input_size, *((1 + bidirectional) * size for size in hidden_sizes[:-1])]
        make = CELLS[cell_type]
        self.layers = nn.ModuleList([make(*sizes, bidirectional) for sizes in zip(inputs, hidden_sizes)])
        self.num_states = make.num_states
        self.state_sizes = [size for size in hidden_sizes for _ in range(make.num_states)]

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, ...] | None = None):
        """`[B, T, I]` to the outputs of the top layer and the state behind the last step."""
        last = []
        for i, layer in enumerate(self.layers):
            if i:
                x = F.dropout(x, self.dropout, self.training)
            part = None if state is None else state[i * self.num_states : (i + 1) * self.num_states]
            x, part = layer(x, part)
            last += part
        return x, tuple(last)

    def split_state(self, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`[B, S]` to the tuple of states."""
        return flat.split(self.state_sizes, 1)


class StepRunner:
    """A stack whose first input is `[k-hot of ids ; constant ; control]`, run one step at a time.

    The id part of the first product is a sum of rows, the constant part is computed once.
    """

    def __init__(self, stack: RecurrentStack, num_ids: int, constant: torch.Tensor):
        """
        Args:
            num_ids: V, ids of the k-hot part; the id V stands for the zero vector.
            constant: `[B, C]`.
        """
        self.stack = stack
        first: Any = stack.layers[0]
        ids, fixed, control = first.weight_ih_l0.split(
            [num_ids, constant.shape[1], first.weight_ih_l0.shape[1] - num_ids - constant.shape[1]], 1
        )
        self.rows = F.pad(ids.t(), (0, 0, 0, 1))
        self.control = control
        self.base = F.linear(constant, fixed, first.input_bias())

    def step(self, ids: torch.Tensor, state: tuple[torch.Tensor, ...], control: torch.Tensor | None = None):
        """`[B, k]` ids of the step before (and `[B, control]`) to the top output `[B, H]` and the new state."""
        stack = self.stack
        rows = F.embedding(ids, self.rows)
        gates = self.base + (rows[:, 0] if ids.shape[1] == 1 else rows.sum(1))
        if control is not None:
            gates = gates + F.linear(control, self.control)
        new, x = [], None
        for i, layer in enumerate(stack.layers):
            if i:
                x = F.dropout(x, stack.dropout, stack.training)
                gates = F.linear(x, layer.weight_ih_l0, layer.input_bias())
            part = layer.cell(gates, layer.weight_hh_l0, state[i * stack.num_states : (i + 1) * stack.num_states])
            new += part
            x = part[-1]
        return x, tuple(new)
