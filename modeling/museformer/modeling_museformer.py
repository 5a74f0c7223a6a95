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
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .attention_museformer import BACKENDS, AttentionPlan, dropout, make_plan, step_plan
from .cache_museformer import MuseformerCache
from .configuration_museformer import MuseformerConfig
from .layers_museformer import MuseformerAttention, MuseformerLayer, VocabularyLinear, XavierLinear
from .structure_museformer import Segments, derive_segments, derive_step, sinusoid


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
        if cache is not None and cache.length > 0 and input_ids is not None and input_ids.shape[1] == 1:
            states = self._step(input_ids, attention_mask, cache, bar_offset, bool(kwargs.get("output_hidden_states")))
            return BaseModelOutputWithPast(last_hidden_state=states, past_key_values=cache)
        segments = self._segments(input_ids, attention_mask, inputs_embeds, bar_ids, beat_ids, cache)
        bar_offset = self._bar_offset(bar_offset, cache, segments.bar_ids)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids) * math.sqrt(self.config.hidden_size)
        content = self._embed_contents(inputs_embeds, segments.bar_ids, segments.beat_ids, bar_offset)
        key_bars, key_eos, column_bars, summary_bars = self._layout(segments, cache)
        plan = make_plan(self.config, segments.bar_ids, key_bars, key_eos, column_bars, summary_bars)
        summary = self._embed_summaries(column_bars, bar_offset) if column_bars.shape[1] else None
        for layer in self.layers:
            content, summary = layer(content, summary, plan, past_key_values=cache)
        if cache is not None:
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

    def _bar_offset(self, bar_offset, cache, ids):
        if bar_offset is not None:
            bar_offset = torch.as_tensor(bar_offset, device=ids.device).long().expand(len(ids))
            if cache is not None:
                cache.bar_offset = bar_offset
        elif cache is not None:
            bar_offset = cache.bar_offset
        return bar_offset

    def _bar_numbers(self, bar_ids, bar_offset):
        """Bars `[B, ...]` as the sinusoid counts them: 0 for prefix and padding."""
        numbers = bar_ids.clamp(min=0)
        if bar_offset is not None:
            numbers = torch.where(numbers > 0, numbers + bar_offset.view(-1, *[1] * (bar_ids.dim() - 1)), 0)
        return numbers

    def _table(self, index, size, dtype):
        if index.numel() <= 64:
            return sinusoid(index, size, dtype)
        return F.embedding(index, sinusoid(torch.arange(int(index.max()) + 1, device=index.device), size, dtype))

    def _embed_contents(self, embeds, bar_ids, beat_ids, bar_offset):
        bar = self._table(self._bar_numbers(bar_ids, bar_offset), self.config.bar_embedding_size, embeds.dtype)
        beat = self._table(beat_ids, self.config.beat_embedding_size, embeds.dtype)
        content = self.content_projection(torch.cat([embeds, bar, beat], -1))
        return dropout(content.to(embeds.dtype), self.config.dropout, self.training)

    def _embed_summaries(self, column_bars, bar_offset):
        embeds = self.embed_summary((column_bars >= 1).long()) * math.sqrt(self.config.hidden_size)
        bar = self._table(self._bar_numbers(column_bars, bar_offset), self.config.bar_embedding_size, embeds.dtype)
        summary = self.summary_projection(torch.cat([embeds, bar], -1))
        return dropout(summary.to(embeds.dtype), self.config.dropout, self.training)

    def _step(self, input_ids, attention_mask, cache: MuseformerCache, bar_offset, recorded: bool):
        """One token per row `[B, 1]` that continues a cache, to states `[B, 1, d]`."""
        bar_offset = self._bar_offset(bar_offset, cache, input_ids)
        bar_ids, beat_ids = self._begin_step(input_ids, attention_mask, cache, bar_offset)
        plan = step_plan(self.config)
        if not recorded and plan.backend != "eager" and not torch.is_grad_enabled() and cache.lay_out_weights(self):
            weights = cache.step_weights
            assert weights is not None
            if cache.bar_rows is None:
                cache.bar_rows = weights.embed_bars(self._bar_numbers(cache.state.bar, bar_offset))
            bars = cache.bar_rows
            if min(bar_ids) < 0:
                bars = bars * (torch.tensor(bar_ids, device=bars.device) >= 0)[:, None]
            return weights(input_ids[:, 0], torch.tensor(beat_ids, device=bars.device), bars, cache)[:, None]
        bar_ids, beat_ids = (torch.tensor(ids, device=input_ids.device)[:, None] for ids in (bar_ids, beat_ids))
        embeds = self.embed_tokens(input_ids) * math.sqrt(self.config.hidden_size)
        content = self._embed_contents(embeds, bar_ids, beat_ids, bar_offset)
        for layer in self.layers:
            content, _ = layer(content, None, plan, past_key_values=cache)
        return self.norm(content)

    def _begin_step(self, input_ids, attention_mask, cache: MuseformerCache, bar_offset):
        """Close the bars that a Bar token ends, then make room for the token; returns bar and beat ids, B numbers."""
        tokens = input_ids[:, 0]
        if attention_mask is not None:
            tokens = tokens.masked_fill(attention_mask[:, -1] == 0, self.config.pad_token_id)
        tokens = tokens.tolist()
        old_bars, old_beats = cache.host_state(len(tokens))
        bars, beats, bar_ids, beat_ids = derive_step(self.config, tokens, old_bars, old_beats)
        if bars != old_bars:
            started = [row for row, bar in enumerate(bars) if bar > old_bars[row]]
            closed = [row for row in started if old_bars[row] > 0]
            if self.config.uses_summaries and closed:
                self._close_bars(torch.tensor(closed, device=input_ids.device), cache, bar_offset)
            cache.start_bars(bars, beats, started)
        cache.begin_step(beats, bar_ids, [token == self.config.eos_token_id for token in tokens])
        return bar_ids, beat_ids

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
