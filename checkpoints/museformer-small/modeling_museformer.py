"""Museformer: a decoder-only Transformer with fine- and coarse-grained attention for long symbolic music.

Yu et al., "Museformer: Transformer with Fine- and Coarse-Grained Attention for Music Generation", NeurIPS 2022,
arXiv 2210.10349. Two streams run through every layer: *contents* X (one vector per token) and *summaries* S (one
vector per bar). With X^ = LN1(X), S^ = LN1(S), W_Q, W_K, W_V shared and one bias triple per stream:

    A  summarise   s_i  = softmax(q_s,i . [k_s,i ; k_x(bar i)]^T / sqrt(d_h)) . [v_s,i ; v_x(bar i)]
    B  re-project  k2_i = s_i W_K2,  v2_i = s_i W_V2
    C  aggregate   x_j  = softmax(q_x,j . [k2(coarse bars) ; k_x(fine tokens)]^T / sqrt(d_h)) . [v2 ; v_x]
    X <- X + x W_O + b_O,  S <- S + s W_O + b_O,  then one feed-forward block for both

Which bars are fine and which coarse: `structure_museformer`. How step C skips the rest: `attention_museformer`.
Every content position is causal, BOS included, and no summary is visible inside its own bar.

Legend: B rows, n tokens, s summary columns, d hidden size, h heads.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .attention_museformer import ATTENTION_FUNCTIONS as ALL_ATTENTION_FUNCTIONS
from .attention_museformer import (
    BACKENDS,
    AttentionPlan,
    add_residual,
    dropout,
    eager_attention,
    gathered_attention,
    make_plan,
    step_plan,
)
from .cache_museformer import MuseformerCache
from .configuration_museformer import MuseformerConfig
from .structure_museformer import Segments, derive_segments


def sinusoid(index: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Sines, then cosines, of `index * 10000^(-k / (size / 2 - 1))`: `[..., size]`; index 0 is the zero vector."""
    half = size // 2
    precision = torch.promote_types(dtype, torch.float32)
    steps = torch.arange(half, dtype=precision, device=index.device)
    angle = index[..., None].to(precision) * torch.exp(steps * (-math.log(10000) / (half - 1)))
    return (torch.cat([angle.sin(), angle.cos()], -1) * (index > 0)[..., None]).to(dtype)


class XavierLinear(nn.Linear):
    """Stack of `num_matrices` square matrices, each Xavier uniform with `gain`; bias zero.

    Initialisation belongs to the module that owns the weight: transformers skips `_init_weights` for containers
    without parameters of their own.
    """

    def __init__(self, in_features: int, num_matrices: int = 1, *, gain: float = 1.0, bias: bool = False):
        self.bound = gain * math.sqrt(6 / (2 * in_features))
        super().__init__(in_features, num_matrices * in_features, bias=bias)


class VocabularyLinear(nn.Linear):
    """Output matrix N(0, 1 / in_features)."""


class MuseformerAttention(nn.Module):
    """Steps A, B and C for both streams."""

    def __init__(self, config: MuseformerConfig, layer_idx: int):
        super().__init__()
        d = config.hidden_size
        self.layer_idx = layer_idx
        self.num_heads, self.head_size = config.num_attention_heads, config.head_size
        self.scaling = self.head_size**-0.5
        self.attention_dropout = config.attention_dropout
        self.qkv_proj = XavierLinear(d, 3, gain=2**-0.5)  # W_Q, W_K, W_V
        self.content_bias = nn.Parameter(torch.zeros(3 * d))
        self.summary_bias = nn.Parameter(torch.zeros(3 * d))
        self.summary_proj = XavierLinear(d, 2, gain=2**-0.5)  # W_K2, W_V2
        self.out_proj = XavierLinear(d, bias=True)

    def forward(self, content, summary, plan: AttentionPlan, past_key_values: MuseformerCache | None = None):
        """Normed streams `[B, n, d]` and `[B, s, d]` (or `None`) to content, weights (eager only), summary."""
        d = content.shape[-1]
        probability = self.attention_dropout if self.training else 0.0
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(plan.backend, eager_attention)

        query, key_value = F.linear(content, self.qkv_proj.weight, self.content_bias).split([d, 2 * d], -1)
        if plan.is_step:
            key, value = past_key_values.append(self.layer_idx, key_value[:, 0])
            query = self._heads(query)
            mask = past_key_values.step_mask
            if mask is None and plan.backend == "eager":
                mask = torch.ones((), dtype=torch.bool, device=query.device)
            output, weights = attend(
                self, query, key.to(query.dtype), value.to(query.dtype), mask, scaling=self.scaling
            )
            return self.out_proj(output.flatten(2)), weights, None

        if past_key_values is not None:
            key_value = past_key_values.extend_contents(self.layer_idx, key_value)
        second = None
        if summary is not None:
            summary = self.summarise(summary, key_value, plan, probability)
            second = self.summary_proj(summary)
        if past_key_values is not None:
            second = past_key_values.extend_summaries(self.layer_idx, second)
        if second is not None:
            key_value = torch.cat([second, key_value.to(second.dtype)], 1)
        key, value = key_value.to(query.dtype).split(d, -1)
        output, weights = attend(
            self,
            self._heads(query),
            self._heads(key),
            self._heads(value),
            plan.content_mask,
            dropout=probability,
            scaling=self.scaling,
            chunks=plan.content_chunks,
            num_summaries=0 if second is None else second.shape[1],
            padding=plan.padding,
        )
        output = self.out_proj(output.flatten(2))
        return output, weights, None if summary is None else self.out_proj(summary)

    def _heads(self, states):
        """`[B, n, d]` to `[B, h, n, d / h]`."""
        return states.unflatten(-1, (self.num_heads, self.head_size)).transpose(1, 2)

    def summarise(self, summary, key_value, plan, probability):
        """Step A: `[B, s, d]`."""
        rows, s, d = summary.shape
        query, own = F.linear(summary, self.qkv_proj.weight, self.summary_bias).split([d, 2 * d], -1)
        key, value = torch.cat([own, key_value.to(own.dtype)], 1).split(d, -1)
        if plan.backend == "eager":
            query, key, value = self._heads(query), self._heads(key), self._heads(value)
            output, _ = eager_attention(
                self, query, key, value, plan.summary_mask, dropout=probability, scaling=self.scaling
            )
            return output.flatten(2)
        output = gathered_attention(
            query.reshape(rows * s, d),
            key.reshape(-1, d),
            value.reshape(-1, d),
            plan.summary_chunks,
            self.num_heads,
            dropout=probability,
            scaling=self.scaling,
        )
        return output.view(rows, s, d)


class MuseformerFeedForward(nn.Module):
    def __init__(self, config: MuseformerConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states):
        return self.down_proj(F.gelu(self.up_proj(states)))


class MuseformerLayer(GradientCheckpointingLayer):
    """Pre-LN layer; LN1, LN2 and the feed-forward block are shared by both streams."""

    def __init__(self, config: MuseformerConfig, layer_idx: int):
        super().__init__()
        self.dropout = config.dropout
        self.is_last = layer_idx == config.num_hidden_layers - 1
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = MuseformerAttention(config, layer_idx)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = MuseformerFeedForward(config)

    def forward(self, content, summary, plan: AttentionPlan, past_key_values: MuseformerCache | None = None):
        """Streams `[B, n, d]` and `[B, s, d]` or `None`; returns both."""
        normed = None if summary is None else self.attention_norm(summary)
        new_content, _, new_summary = self.attention(
            self.attention_norm(content), normed, plan, past_key_values=past_key_values
        )
        content = self._feed_forward(self._add(content, new_content))
        if summary is not None and not self.is_last:  # nothing reads the summaries after the last layer
            summary = self._feed_forward(self._add(summary, new_summary))
        return content, summary

    def close_bar(self, summary, key_value, plan: AttentionPlan):
        """Summary stream alone: `[R, 1, d]` over contents k, v `[R, m, 2 d]`; returns it and its k2, v2."""
        summarised = self.attention.summarise(self.attention_norm(summary), key_value, plan, 0.0)
        second = self.attention.summary_proj(summarised)
        if not self.is_last:
            summary = self._feed_forward(summary + self.attention.out_proj(summarised))
        return summary, second

    def _feed_forward(self, states):
        return self._add(states, self.feed_forward(self.feed_forward_norm(states)))

    def _add(self, states, update):
        return add_residual(states, update, self.dropout, self.training)


class MuseformerPreTrainedModel(PreTrainedModel):
    config: MuseformerConfig
    config_class = MuseformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("MuseformerLayer",)
    _skip_keys_device_placement = ("past_key_values",)
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = False
    _is_stateful = True  # a summarised bar cannot be taken back: no assisted generation
    _can_record_outputs = {"hidden_states": MuseformerLayer, "attentions": MuseformerAttention}  # noqa: RUF012

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in transformers, whose loading forgets which parameters are frozen."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze_unused()
        return loaded

    def _freeze_unused(self):
        """Take the parameters of the summaries out of training where no bar is seen through its summary.

        They stay in the checkpoint. Without a gradient they would make data-parallel training stop.
        """
        if not self.config.uses_summaries:
            for name, parameter in self.named_parameters():
                if "summary" in name:  # embed_summary, summary_projection, summary_bias, summary_proj
                    parameter.requires_grad_(False)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        requested_attention = requested_attention or "auto"
        if requested_attention not in BACKENDS:
            raise ValueError(f"attn_implementation={requested_attention!r} is not one of {', '.join(BACKENDS)}")
        return requested_attention

    def _init_weights(self, module):
        if isinstance(module, XavierLinear):
            init.uniform_(module.weight, -module.bound, module.bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, VocabularyLinear):
            init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Linear):  # the framework's default
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, MuseformerAttention):
            init.zeros_(module.content_bias)
            init.zeros_(module.summary_bias)


class MuseformerModel(MuseformerPreTrainedModel):
    """Token ids to content states `[B, n, d]` after the final LayerNorm."""

    def __init__(self, config: MuseformerConfig):
        super().__init__(config)
        config.validate()
        d = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, d, padding_idx=config.pad_token_id)
        self.embed_summary = nn.Embedding(2, d, padding_idx=0)
        self.content_projection = nn.Linear(d + config.bar_embedding_size + config.beat_embedding_size, d)
        self.summary_projection = nn.Linear(d + config.bar_embedding_size, d)
        self.layers = nn.ModuleList([MuseformerLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()
        self._freeze_unused()

    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: MuseformerCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        bar_offset: torch.Tensor | int | None = None,
        bar_ids: torch.LongTensor | None = None,
        beat_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Run the model.

        Args:
            input_ids: `[B, n]`; with `past_key_values` only the new tokens.
            attention_mask: `[B, n]` or longer (the last n columns count), 0 for padding; `None` means all ones.
            past_key_values: state of the earlier tokens; a new one is made if `use_cache` and none is given.
            inputs_embeds: `[B, n, d]`, replaces the scaled token embeddings; needs `bar_ids` and `beat_ids`.
            use_cache: default `config.use_cache` outside of training.
            bar_offset: `[B]` or int, added to the bar numbers in the sinusoid: the number of bars before a crop.
            bar_ids: `[B, n]`, -1 padding, 0 prefix, 1 ... b; only with `inputs_embeds`, EOS taken as an ordinary token.
            beat_ids: `[B, n]`; only with `inputs_embeds`.
        """
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and inputs_embeds is None
        if self.training and self.is_activation_checkpointing:
            if past_key_values is not None:
                raise ValueError("past_key_values cannot be combined with activation checkpointing in training")
            use_cache = False
        if past_key_values is not None and not isinstance(past_key_values, MuseformerCache):
            raise ValueError(f"past_key_values must be a MuseformerCache, not {type(past_key_values).__name__}")
        cache = past_key_values
        if cache is None and use_cache:
            cache = MuseformerCache(self.config)
        segments = self._segments(input_ids, attention_mask, inputs_embeds, bar_ids, beat_ids, cache)
        bar_offset = self._bar_offset(bar_offset, cache, segments.bar_ids)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids) * math.sqrt(self.config.hidden_size)
        content = self._embed_contents(inputs_embeds, segments, bar_offset)

        if cache is not None and cache.length > 0 and content.shape[1] == 1:
            self._begin_step(segments, cache, bar_offset)
            summary, plan = None, step_plan(self.config)
        else:
            key_bars, key_eos, column_bars, summary_bars = self._layout(segments, cache)
            plan = make_plan(self.config, segments.bar_ids, key_bars, key_eos, column_bars, summary_bars)
            summary = self._embed_summaries(column_bars, bar_offset) if column_bars.shape[1] else None
        for layer in self.layers:
            content, summary = layer(content, summary, plan, past_key_values=cache)
        if cache is not None and not plan.is_step:
            cache.commit(key_bars, key_eos, column_bars, content.shape[1], segments.state)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(content), past_key_values=cache)

    def _segments(self, input_ids, attention_mask, inputs_embeds, bar_ids, beat_ids, cache) -> Segments:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")
        if attention_mask is not None:
            if attention_mask.dim() != 2:
                raise ValueError(f"attention_mask must be [batch, tokens], not {tuple(attention_mask.shape)}")
            attention_mask = attention_mask[:, -(inputs_embeds if input_ids is None else input_ids).shape[1] :]
        if inputs_embeds is None:
            if bar_ids is not None or beat_ids is not None:
                raise ValueError("bar_ids and beat_ids follow from input_ids; pass them with inputs_embeds only")
            return derive_segments(self.config, input_ids, attention_mask, None if cache is None else cache.state)
        if bar_ids is None or beat_ids is None:
            raise ValueError("inputs_embeds carries no bars: pass bar_ids and beat_ids too")
        if cache is not None:
            raise ValueError("inputs_embeds cannot be combined with a cache")
        if attention_mask is not None:
            bar_ids = bar_ids.masked_fill(attention_mask == 0, -1)
        return Segments(bar_ids, beat_ids, torch.zeros_like(bar_ids, dtype=torch.bool), None)

    def _bar_offset(self, bar_offset, cache, bar_ids):
        if bar_offset is not None:
            bar_offset = torch.as_tensor(bar_offset, device=bar_ids.device).long().expand(len(bar_ids))
            if cache is not None:
                cache.bar_offset = bar_offset
        elif cache is not None:
            bar_offset = cache.bar_offset
        return bar_offset

    def _bar_sinusoid(self, bar_ids, bar_offset, dtype):
        number = bar_ids.clamp(min=0)
        if bar_offset is not None:
            number = torch.where(number > 0, number + bar_offset[:, None], 0)
        return self._table(number, self.config.bar_embedding_size, dtype)

    def _table(self, index, size, dtype):
        if index.numel() <= 64:
            return sinusoid(index, size, dtype)
        return F.embedding(index, sinusoid(torch.arange(int(index.max()) + 1, device=index.device), size, dtype))

    def _embed_contents(self, embeds, segments, bar_offset):
        bar = self._bar_sinusoid(segments.bar_ids, bar_offset, embeds.dtype)
        beat = self._table(segments.beat_ids, self.config.beat_embedding_size, embeds.dtype)
        content = self.content_projection(torch.cat([embeds, bar, beat], -1))
        return dropout(content.to(embeds.dtype), self.config.dropout, self.training)

    def _embed_summaries(self, column_bars, bar_offset):
        embeds = self.embed_summary((column_bars >= 1).long()) * math.sqrt(self.config.hidden_size)
        bar = self._bar_sinusoid(column_bars, bar_offset, embeds.dtype)
        summary = self.summary_projection(torch.cat([embeds, bar], -1))
        return dropout(summary.to(embeds.dtype), self.config.dropout, self.training)

    def _begin_step(self, segments: Segments, cache: MuseformerCache, bar_offset) -> None:
        """One token per row: close the bars that a Bar token ends, then make room for the token."""
        started, present = segments.state.bar > cache.state.bar, segments.bar_ids[:, 0] >= 0
        any_started, *presence = torch.stack([started.any(), present.any(), present.all()]).tolist()
        if any_started:
            if self.config.uses_summaries and len(rows := (started & (cache.state.bar > 0)).nonzero().squeeze(1)):
                self._close_bars(rows, cache, bar_offset)
            cache.start_bars(segments.state, started.nonzero().squeeze(1))
        cache.begin_step(segments.bar_ids[:, 0], segments.is_eos[:, 0], segments.state, *presence)

    def _close_bars(self, rows, cache: MuseformerCache, bar_offset) -> None:
        """Run the summary columns of the current bars of `rows` through all layers, over the cached contents."""
        slots, present = cache.own_bar(rows)
        mask = F.pad(present, (1, 0), value=True)[:, None, None]
        plan = AttentionPlan("eager", summary_mask=mask)
        offset = None if bar_offset is None else bar_offset[rows]
        summary = self._embed_summaries(cache.state.bar[rows, None], offset)
        for i, layer in enumerate(self.layers):
            summary, key_value = layer.close_bar(summary, cache.slots[i][rows[:, None], slots], plan)
            cache.add_summary(i, rows, key_value[:, 0])

    def _layout(self, segments: Segments, cache: MuseformerCache | None):
        """Bars and EOS flags of all keys `[B, k]`, bars of the new columns `[B, s]` and of all summaries `[B, S]`."""
        bars = segments.bar_ids
        if cache is None:
            last, first, closed = bars.amax(1).clamp(min=0), 0, bars[:, :0]
            key_bars, key_eos = bars, segments.is_eos
        else:  # only finished bars: an unfinished one gets its column when the next bar starts
            stored, stored_eos, closed = cache.stored_bars(len(bars), bars.device)
            last = (segments.state.bar - 1).clamp(min=0)
            first = closed.shape[1] and closed.amax(1)
            key_bars, key_eos = torch.cat([stored, bars], 1), torch.cat([stored_eos, segments.is_eos], 1)
        num_columns = int((last - first).max()) if self.config.uses_summaries else 0
        columns = torch.arange(1, num_columns + 1, device=bars.device).expand(len(bars), -1)
        if isinstance(first, torch.Tensor):
            columns = columns + first[:, None]
        columns = torch.where(columns <= last[:, None], columns, 0)
        return key_bars, key_eos, columns, torch.cat([closed, columns], 1)


class MuseformerForCausalLM(MuseformerPreTrainedModel, GenerationMixin):
    """Museformer with a language-model head."""

    def __init__(self, config: MuseformerConfig):
        super().__init__(config)
        self.model = MuseformerModel(config)
        self.lm_head = VocabularyLinear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        past_key_values: MuseformerCache | None = None,
        use_cache: bool | None = None,
        bar_offset: torch.Tensor | int | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        inputs_embeds: torch.Tensor | None = None,
        bar_ids: torch.LongTensor | None = None,
        beat_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits `[B, n, V]` and, with unshifted `labels` `[B, n]` (-100 ignored), the mean cross-entropy in nats.

        Args:
            logits_to_keep: number of last positions, or positions, to compute logits for; 0 means all.

        The other arguments: `MuseformerModel.forward`; `num_items_in_batch` replaces the divisor of the loss.
        """
        if use_cache is None and labels is not None:
            use_cache = False
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            bar_offset=bar_offset,
            bar_ids=bar_ids,
            beat_ids=beat_ids,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = ["MuseformerForCausalLM", "MuseformerModel", "MuseformerPreTrainedModel"]
