"""The recurrent cells: one layer, one direction.

With x the input, h the state, C the memory, σ the logistic function, ⊙ the element-wise product, U input and W
recurrent matrices:

    rnn_tanh, rnn_relu   h' = φ(b + U x + W h),  φ = tanh or max(0, ·)

    gru                  r = σ(b_r + U_r x + W_r h),  z = σ(b_z + U_z x + W_z h)
                         n = tanh(b_n + U_n x + r ⊙ (W_n h + d_n)),  h' = (1 - z) ⊙ n + z ⊙ h

    gru_thesis           r, u like r, z;  n = tanh(b_n + U_n x + W_n (r ⊙ h)),  h' = (1 - u) ⊙ h + u ⊙ n
                         (Cho et al., arXiv 1406.1078; the other printed form, u ⊙ h + (1 - u) ⊙ n, is this one with
                         the parameters of u negated)

    lstm                 i, f, o = σ(b + U x + W h) with weights of their own,  g = tanh(b_g + U_g x + W_g h)
                         C' = f ⊙ C + i ⊙ g,  h' = o ⊙ tanh(C')

    lstm_peephole        i and f also see p ⊙ C, o also p ⊙ C'  (Gers and Schmidhuber, 2000)

`rnn_*`, `gru` and `lstm` train on torch's fused modules and keep their parameters there, in torch's gate order
(r, z, n and i, f, g, o) with its two bias vectors; the other two walk over the steps. A single step is always computed
by the equations above.

Legend: B rows, n steps, I input size, H hidden size, G gates.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .cache_recurrent import State
from .configuration_recurrent import RecurrentConfig


class RecurrentCell(nn.Module):
    """Base of all cells. A subclass has the parameters named here, and `step`."""

    weight_ih: torch.Tensor  # U, [G H, I]
    weight_hh: torch.Tensor  # W, [G H, H]
    bias_ih: torch.Tensor  # [G H]
    num_gates = 1
    has_memory = False

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.hidden_size = config.hidden_size

    def initial_state(self, rows: int, like: torch.Tensor) -> State:
        """Zeros, `[B, H]` each."""
        zeros = like.new_zeros(rows, self.hidden_size)
        return (zeros, zeros) if self.has_memory else (zeros,)

    def project(self, inputs: torch.Tensor) -> torch.Tensor:
        """`b + U x` of all gates, `[..., G H]`, for vectors `[..., I]` or, as one-hot vectors, token ids `[...]`."""
        if inputs.is_floating_point():
            return F.linear(inputs, self.weight_ih, self.bias_ih)
        return F.embedding(inputs, self.weight_ih.t()) + self.bias_ih

    def step(self, projected: torch.Tensor, state: State) -> State:
        """The next state from `b + U x` `[B, G H]` and the state."""
        raise NotImplementedError

    def forward(
        self, inputs: torch.Tensor, state: State, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """Read `inputs` `[B, n, I]` or ids `[B, n]`; return h of every step `[B, n, H]` and the last state.

        Args:
            lengths: `[B]`, at least 1: the steps of each row that count; those behind leave the state alone.
        """
        projected, outputs = self.project(inputs), []
        for i, step in enumerate(projected.unbind(1)):
            new = self.step(step, state)
            if lengths is not None:
                counts = (i < lengths)[:, None]
                new = tuple(torch.where(counts, after, before) for after, before in zip(new, state))
            state = new
            outputs.append(state[0])
        return torch.stack(outputs, 1), state


class FusedCell(RecurrentCell):
    """A cell whose sequences go through a fused torch module of one layer, `rnn`."""

    rnn: nn.RNNBase

    @property  # type: ignore[override]
    def weight_ih(self) -> torch.Tensor:
        return self.rnn.weight_ih_l0

    @property  # type: ignore[override]
    def weight_hh(self) -> torch.Tensor:
        return self.rnn.weight_hh_l0

    @property  # type: ignore[override]
    def bias_ih(self) -> torch.Tensor:
        return self.rnn.bias_ih_l0

    @property
    def bias_hh(self) -> torch.Tensor:
        return self.rnn.bias_hh_l0

    def forward(self, inputs, state, lengths=None):
        if inputs.shape[1] == 1:
            return super().forward(inputs, state, lengths)
        if not inputs.is_floating_point():
            inputs = F.one_hot(inputs, self.rnn.input_size).to(self.weight_ih.dtype)
        state = tuple(tensor[None].contiguous() for tensor in state)
        packed = inputs
        if lengths is not None:
            packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, last = self.rnn(packed, state if self.has_memory else state[0])
        if lengths is not None:
            outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
        return outputs, tuple(tensor[0] for tensor in (last if self.has_memory else (last,)))


class VanillaCell(FusedCell):
    """`rnn_tanh` and `rnn_relu`."""

    def __init__(self, config: RecurrentConfig, input_size: int):
        super().__init__(config)
        nonlinearity = config.cell_type.removeprefix("rnn_")
        self.activation = torch.tanh if nonlinearity == "tanh" else torch.relu
        self.rnn = nn.RNN(input_size, config.hidden_size, nonlinearity=nonlinearity, batch_first=True)

    def step(self, projected, state):
        return (self.activation(projected + F.linear(state[0], self.weight_hh, self.bias_hh)),)


class GRUCell(FusedCell):
    """`gru`: the reset gate acts on the product W_n h + d_n."""

    num_gates = 3

    def __init__(self, config: RecurrentConfig, input_size: int):
        super().__init__(config)
        self.rnn = nn.GRU(input_size, config.hidden_size, batch_first=True)

    def step(self, projected, state):
        (h,) = state
        x_r, x_z, x_n = projected.chunk(3, -1)
        h_r, h_z, h_n = F.linear(h, self.weight_hh, self.bias_hh).chunk(3, -1)
        reset, update = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        candidate = torch.tanh(x_n + reset * h_n)
        return ((1 - update) * candidate + update * h,)


class LSTMCell(FusedCell):
    """`lstm`."""

    num_gates = 4
    has_memory = True

    def __init__(self, config: RecurrentConfig, input_size: int):
        super().__init__(config)
        self.rnn = nn.LSTM(input_size, config.hidden_size, batch_first=True)

    def step(self, projected, state):
        h, memory = state
        i, f, g, o = (projected + F.linear(h, self.weight_hh, self.bias_hh)).chunk(4, -1)
        memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(memory), memory


class ExplicitCell(RecurrentCell):
    """A cell without a fused module; one bias vector, added to the input's share."""

    def __init__(self, config: RecurrentConfig, input_size: int):
        super().__init__(config)
        rows = self.num_gates * config.hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, config.hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(rows))


class ThesisGRUCell(ExplicitCell):
    """`gru_thesis`: the reset gate acts on h. Gate order r, u, n."""

    num_gates = 3

    def step(self, projected, state):
        (h,) = state
        size = self.hidden_size
        gates = projected[:, : 2 * size] + F.linear(h, self.weight_hh[: 2 * size])
        reset, update = torch.sigmoid(gates).chunk(2, -1)
        candidate = torch.tanh(projected[:, 2 * size :] + F.linear(reset * h, self.weight_hh[2 * size :]))
        return ((1 - update) * h + update * candidate,)


class PeepholeLSTMCell(ExplicitCell):
    """`lstm_peephole`: gates that also see the memory. Gate order i, f, g, o."""

    num_gates = 4
    has_memory = True

    def __init__(self, config: RecurrentConfig, input_size: int):
        super().__init__(config, input_size)
        for gate in ("input", "forget", "output"):
            used = gate in config.peephole_gates
            self.register_parameter(f"peephole_{gate}", nn.Parameter(torch.empty(self.hidden_size)) if used else None)

    def step(self, projected, state):
        h, memory = state
        i, f, g, o = (projected + F.linear(h, self.weight_hh)).chunk(4, -1)
        i, f = self._peep(i, "input", memory), self._peep(f, "forget", memory)
        memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(self._peep(o, "output", memory)) * torch.tanh(memory), memory

    def _peep(self, gate: torch.Tensor, name: str, memory: torch.Tensor) -> torch.Tensor:
        weight = getattr(self, f"peephole_{name}")
        return gate if weight is None else gate + weight * memory


CELLS = {
    "rnn_tanh": VanillaCell,
    "rnn_relu": VanillaCell,
    "gru": GRUCell,
    "gru_thesis": ThesisGRUCell,
    "lstm": LSTMCell,
    "lstm_peephole": PeepholeLSTMCell,
}


def make_cell(config: RecurrentConfig, input_size: int) -> RecurrentCell:
    """Return a new cell of the configured type."""
    return CELLS[config.cell_type](config, input_size)


__all__ = ["RecurrentCell", "make_cell"]
