"""Recurrent sequence models: vanilla RNN, GRU and LSTM in several forms, as baselines of the Transformers.

A stack of recurrent layers reads tokens (embedded or one-hot) or vectors; the head predicts the next step from the
state of the last layer, `o = c + V h`. The cells and their equations: `cells_recurrent`. What a call leaves behind, for
`generate` and for truncated back-propagation through time: `cache_recurrent`.

Padding leaves the state alone, wherever it stands, and the output there is zero: a padded batch equals single calls.

Legend: B rows, n steps, H hidden size, V tokens.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .cache_recurrent import RecurrentCache, RecurrentCacheLayer
from .cells_recurrent import ExplicitCell, RecurrentCell, make_cell
from .configuration_recurrent import RecurrentConfig


class Steps(NamedTuple):
    """Where the steps of padded rows stand."""

    mask: torch.Tensor  # [B, n] bool
    forward: torch.Tensor  # [B, n] places of the real steps in order, then those of the padding
    backward: torch.Tensor  # [B, n] places of the real steps in reverse order, then those of the padding
    lengths: torch.Tensor  # [B] number of real steps

    @classmethod
    def from_mask(cls, mask: torch.Tensor) -> "Steps":
        mask = mask.bool()
        lengths = mask.sum(1)
        forward = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
        place = torch.arange(mask.shape[1], device=mask.device).expand_as(forward)
        mirrored = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)
        return cls(mask, forward, forward.gather(1, mirrored), lengths)


def gather_steps(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """`states[b, places[b, i]]` for ids `[B, n]` or vectors `[B, n, d]`."""
    if states.dim() == 3:
        places = places[:, :, None].expand(-1, -1, states.shape[2])
    return states.gather(1, places)


class RecurrentLayer(nn.Module):
    """One layer; with `bidirectional`, a second cell reads from the end and both outputs stand side by side."""

    def __init__(self, config: RecurrentConfig, layer_idx: int):
        super().__init__()
        directions = 2 if config.bidirectional else 1
        width = config.input_size if layer_idx == 0 else directions * config.hidden_size
        self.dropout = config.dropout
        self.residual = config.residual and layer_idx > 0
        self.cell = make_cell(config, width)
        self.backward_cell = make_cell(config, width) if config.bidirectional else None

    def forward(
        self, states: torch.Tensor, steps: Steps | None = None, past: RecurrentCacheLayer | None = None
    ) -> torch.Tensor:
        """`[B, n, d]` or ids `[B, n]` to `[B, n, H]`, both directions `[B, n, 2 H]`; updates `past`."""
        output = self._read(states, steps, past)
        if self.backward_cell is not None:
            output = torch.cat([output, self._read_backward(self.backward_cell, states, steps)], -1)
        if self.residual:
            output = output + states
        return F.dropout(output, self.dropout, self.training)

    def _read(self, states, steps, past):
        start = None if past is None else past.state
        if start is None:
            start = self.cell.initial_state(len(states), self.cell.weight_hh)
        if steps is None:
            output, end = self.cell(states, start)
        else:  # only a state that is kept must not see the padding: behind the real steps, it does no other harm
            lengths = None if past is None else steps.lengths
            output, end = self.cell(
                gather_steps(states, steps.forward), start, None if lengths is None else lengths.clamp(min=1)
            )
            output = gather_steps(output, steps.forward.argsort(1)).masked_fill(~steps.mask[:, :, None], 0)
            if lengths is not None:
                empty = (lengths == 0)[:, None]
                end = tuple(torch.where(empty, before, after) for before, after in zip(start, end))
        if past is not None:
            past.update(end, states.shape[1])
        return output

    def _read_backward(self, cell: RecurrentCell, states, steps):
        start = cell.initial_state(len(states), cell.weight_hh)
        if steps is None:
            return cell(states.flip(1), start)[0].flip(1)
        output, _ = cell(gather_steps(states, steps.backward), start)
        return gather_steps(output, steps.backward.argsort(1)).masked_fill(~steps.mask[:, :, None], 0)


class VocabularyEmbedding(nn.Embedding):
    """Token embedding, N(0, initializer_range^2) cut at two deviations."""


class VocabularyLinear(nn.Linear):
    """Output matrix V, N(0, initializer_range^2) cut at two deviations, and bias c."""


class RecurrentPreTrainedModel(PreTrainedModel):
    config: RecurrentConfig
    config_class = RecurrentConfig
    base_model_prefix = "model"
    _no_split_modules = ("RecurrentLayer",)
    _skip_keys_device_placement = ("past_key_values",)
    _is_stateful = True  # a step cannot be taken back: no assisted generation
    _can_record_outputs = {"hidden_states": RecurrentLayer}  # noqa: RUF012

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def num_free_parameters(self) -> int:
        """Number of parameters with the two bias vectors of torch's fused modules counted once.

        The two are added; only the GRU's candidate gate keeps both of its vectors apart.
        """
        count = self.num_parameters()
        for module in self.modules():
            if isinstance(module, nn.RNNBase):
                count -= (2 if isinstance(module, nn.GRU) else module.bias_ih_l0.numel() // module.hidden_size) * (
                    module.hidden_size
                )
        return count

    def _init_weights(self, module):
        std = self.config.initializer_range
        if isinstance(module, VocabularyEmbedding | VocabularyLinear):
            init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if isinstance(module, VocabularyLinear):
                init.zeros_(module.bias)
            elif module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.RNNBase):
            self._init_cell(module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0, isinstance(module, nn.LSTM))
            init.zeros_(module.bias_hh_l0)
        elif isinstance(module, ExplicitCell):
            self._init_cell(module.weight_ih, module.weight_hh, module.bias_ih, module.has_memory)
            for name, weight in module.named_parameters(recurse=False):
                if name.startswith("peephole"):
                    init.zeros_(weight)

    def _init_cell(self, weight_ih, weight_hh, bias, is_lstm: bool) -> None:
        """Every gate's matrices Xavier uniform, the recurrence of `rnn_relu` the identity (Le et al., 1504.00941)."""
        size = weight_hh.shape[1]
        bound = math.sqrt(6 / (weight_ih.shape[1] + size))
        init.uniform_(weight_ih, -bound, bound)
        if self.config.cell_type == "rnn_relu":
            init.eye_(weight_hh)
        else:
            bound = math.sqrt(3 / size)
            init.uniform_(weight_hh, -bound, bound)
        start = torch.zeros_like(bias)
        if is_lstm:
            start[size : 2 * size] = self.config.forget_gate_bias
        init.copy_(bias, start)


class RecurrentModel(RecurrentPreTrainedModel):
    """Token ids or vectors to the states of the last layer; with `bidirectional`, an encoder."""

    def __init__(self, config: RecurrentConfig):
        super().__init__(config)
        config.validate()
        self.embed_tokens = None
        if not config.reads_vectors and config.input_mode == "embedding":
            self.embed_tokens = VocabularyEmbedding(
                config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
            )
        self.layers = nn.ModuleList([RecurrentLayer(config, i) for i in range(config.num_hidden_layers)])
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: RecurrentCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """Run the model.

        Args:
            input_ids: `[B, n]`; with `past_key_values` only the new tokens.
            attention_mask: `[B, n]` or longer (the last n columns count), 0 for padding; `None` means all ones.
            past_key_values: state after the earlier steps; a new one is made if `use_cache` and none is given.
            inputs_embeds: `[B, n, input size]`, instead of `input_ids`: embeddings, or the vectors of a piano roll.
            use_cache: default `config.use_cache` outside of training.

        Returns:
            `last_hidden_state` `[B, n, H]` (both directions: `[B, n, 2 H]`), and `pooler_output`: the state after
            each direction's last real step, `[B, H]` or `[B, 2 H]`.
        """
        if self.config.bidirectional:
            if past_key_values is not None or use_cache:
                raise ValueError("bidirectional=True reads whole sequences: it has no cache")
            use_cache = False
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if past_key_values is not None and not isinstance(past_key_values, RecurrentCache):
            raise ValueError(f"past_key_values must be a RecurrentCache, not {type(past_key_values).__name__}")
        cache = past_key_values
        if cache is None and use_cache:
            cache = RecurrentCache(len(self.layers))
        states = self._inputs(input_ids, inputs_embeds)
        steps = self._steps(attention_mask, states)
        for i, layer in enumerate(self.layers):
            states = layer(states, steps, None if cache is None else cache.layers[i])
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=states, pooler_output=self._pool(states, steps), past_key_values=cache
        )

    def _inputs(self, input_ids, inputs_embeds):
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")
        if inputs_embeds is not None:
            if inputs_embeds.dim() != 3 or inputs_embeds.shape[2] != self.config.input_size:
                raise ValueError(
                    f"inputs_embeds must be [batch, steps, {self.config.input_size}], not {tuple(inputs_embeds.shape)}"
                )
            return inputs_embeds
        if self.config.reads_vectors:
            raise ValueError(f"head_type={self.config.head_type!r} reads vectors: pass inputs_embeds, not input_ids")
        return input_ids if self.embed_tokens is None else self.embed_tokens(input_ids)

    def _steps(self, attention_mask, states) -> Steps | None:
        if attention_mask is None:
            return None
        if attention_mask.dim() != 2:
            raise ValueError(f"attention_mask must be [batch, tokens], not {tuple(attention_mask.shape)}")
        attention_mask = attention_mask[:, -states.shape[1] :]
        return None if bool(attention_mask.all()) else Steps.from_mask(attention_mask)

    def _pool(self, states, steps) -> torch.Tensor:
        size = self.config.hidden_size
        rows = torch.arange(len(states), device=states.device)
        if steps is None:
            last, first = states.shape[1] - 1, 0
        else:
            last, first = steps.backward[:, 0], steps.forward[:, 0]
        forward, backward = states[rows, last, :size], states[rows, first, size:]
        return torch.cat([forward, backward], -1)


class RecurrentForCausalLM(RecurrentPreTrainedModel, GenerationMixin):
    """Recurrent model with a head that predicts the next step."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: RecurrentConfig):
        super().__init__(config)
        if config.bidirectional:
            raise ValueError("bidirectional=True sees the future: use RecurrentModel, as an encoder")
        self.model = RecurrentModel(config)
        self.lm_head = VocabularyLinear(config.hidden_size, config.output_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        past_key_values: RecurrentCache | None = None,
        use_cache: bool | None = None,
        shift_labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits `[B, n, V]` and, with labels, the loss in nats: the mean over labels that are not ignored.

        Args:
            labels: `[B, n]`, the inputs once more, -100 ignored; the loss shifts them. With the heads `bernoulli` and
                `gaussian`: the vectors `[B, n, d]`, padding ignored.
            shift_labels: instead of `labels`: what follows each input, `[B, n]`, -100 ignored (`[B, n, d]`, NaN
                ignored, for vectors). A window of truncated back-propagation loses no target at its end this way.
            past_key_values: state after the earlier steps; gradients flow into it unless it is detached.
            logits_to_keep: number of last positions, or positions, to compute logits for; 0 means all.

        The other arguments: `RecurrentModel.forward`; `num_items_in_batch` replaces the divisor of the loss. The loss
        of `bernoulli` is the cross-entropy of a step's components, added; that of `gaussian` half their squared
        error, added, which is the negative log-likelihood up to a constant.
        """
        with_loss = labels is not None or shift_labels is not None
        if use_cache is None and with_loss:
            use_cache = False
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if with_loss and self.config.reads_vectors:
            loss = self._vector_loss(logits, labels, shift_labels, attention_mask, **kwargs)
        elif with_loss:
            shift_labels = None if shift_labels is None else shift_labels.contiguous()  # may be a slice; is viewed flat
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, shift_labels=shift_labels, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )

    def _vector_loss(self, logits, labels, shift_labels, attention_mask, num_items_in_batch=None, **kwargs):
        if shift_labels is None:
            if attention_mask is not None:
                padding = attention_mask[:, -labels.shape[1] :, None] == 0
                labels = labels.masked_fill(padding | padding.roll(1, 1), math.nan)  # what padding is or would predict
            shift_labels = F.pad(labels[:, 1:], (0, 0, 0, 1), value=math.nan)
        counts = ~shift_labels.isnan().any(-1)
        predicted, target = logits.float()[counts], shift_labels.float()[counts]
        if self.config.head_type == "bernoulli":
            total = F.binary_cross_entropy_with_logits(predicted, target, reduction="sum")
        else:
            total = 0.5 * F.mse_loss(predicted, target, reduction="sum")
        return total / (counts.sum() if num_items_in_batch is None else num_items_in_batch)

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        if self.config.reads_vectors:
            raise ValueError(f"generate() samples tokens, but head_type={self.config.head_type!r} predicts vectors")
        return super().prepare_inputs_for_generation(input_ids, **kwargs)


__all__ = ["RecurrentForCausalLM", "RecurrentModel", "RecurrentPreTrainedModel"]
