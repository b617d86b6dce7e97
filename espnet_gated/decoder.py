"""Gated decoder: ESPnet's Transformer decoder with a gate predictor and cached decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from espnet.nets.pytorch_backend.nets_utils import make_pad_mask
from espnet.nets.pytorch_backend.transformer.mask import subsequent_mask
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from espnet_gated.encoder import make_predictor
from espnet_gated.gating.config import GatingConfig
from espnet_gated.gating.context import GatingContext, TokenContext
from espnet_gated.gating.gates import Gates
from espnet_gated.gating.local import LocalGates
from espnet_gated.gating.predictor import pool
from espnet_gated.inference.cache import DecoderCache
from espnet_gated.inference.steps import embed_new, step_layer
from espnet_gated.layers.transformer_decoder import GatedDecoderLayer


@dataclass(frozen=True)
class HypothesisState:
    """State of one hypothesis in ESPnet's searches: a row of a cache."""

    cache: DecoderCache
    row: int


class GatedTransformerDecoder(TransformerDecoder):
    """``decoder: gated_transformer``: gated self-attention, source attention and feed-forward, and a key/value cache.

    ``score`` and ``batch_score`` serve ESPnet's searches; ``start`` and ``step`` serve
    :mod:`espnet_gated.inference.search`.
    """

    def __init__(self, *args: Any, gating: Mapping[str, Any] | None = None, **kwargs: Any):
        """Build ESPnet's decoder and gate it.

        Args:
            args, kwargs: those of ESPnet's ``TransformerDecoder``.
            gating: options of :class:`espnet_gated.gating.config.GatingConfig`.
        """
        super().__init__(*args, **kwargs)
        self.gate(gating)

    def gate(self, gating: Mapping[str, Any] | None) -> None:
        """Give the ready-built layers their gated classes and make the predictor."""
        for layer in self.decoders:
            layer.__class__ = GatedDecoderLayer
        config = GatingConfig.from_yaml(gating)
        size = self._output_size_bf_softmax
        self.gate_predictor = make_predictor("decoder", self.decoders, size, config, memory=config.nominal_memory)
        self.token_context: TokenContext | None = None

    def connect(self, token_context: TokenContext) -> None:
        """Called by the model, which knows the vocabulary: how to read a context from tokens."""
        self.token_context = token_context

    # -- training ---------------------------------------------------------------------------------
    def forward(
        self,
        hs_pad: Tensor,
        hlens: Tensor,
        ys_in_pad: Tensor,
        ys_in_lens: Tensor,
        return_hs: bool = False,
        return_all_hs: bool = False,
    ) -> tuple[Any, Tensor]:
        """Score whole token sequences.

        Args:
            hs_pad: (B, T, size) encoder output.
            hlens: (B,) its lengths.
            ys_in_pad: (B, L) token ids.
            ys_in_lens: (B,) their lengths.
            return_hs: also return the last hidden states.
            return_all_hs: also return every layer's output.

        Returns:
            scores before softmax (B, L, vocab), or a tuple of it and hidden states; lengths (B,).
        """
        tgt_mask = (~make_pad_mask(ys_in_lens)[:, None, :]).to(ys_in_pad.device)
        tgt_mask = tgt_mask & subsequent_mask(tgt_mask.size(-1), device=tgt_mask.device).unsqueeze(0)
        memory_mask = (~make_pad_mask(hlens, maxlen=hs_pad.size(1)))[:, None, :].to(hs_pad.device)
        gates = self.decide(hs_pad, memory_mask, ys_in_pad).walk()
        tokens = ~make_pad_mask(ys_in_lens, maxlen=ys_in_pad.size(1)).to(ys_in_pad.device)

        x = self.embed(ys_in_pad)
        outputs = []
        for index, layer in enumerate(self.decoders):
            inputs = (x, tgt_mask, hs_pad, memory_mask, None, None, None, gates.layer(index, x, tokens))
            if index + 1 in self.gradient_checkpoint_layers:
                x = checkpoint(layer, *inputs, use_reentrant=False)[0]
            else:
                x = layer(*inputs)[0]
            outputs.append(x)
        hidden = self.after_norm(x) if self.normalize_before else x
        scores = self.output_layer(hidden) if self.output_layer is not None else hidden
        olens = tgt_mask.sum(1)
        if return_hs:
            return (scores, hidden), olens
        if return_all_hs:
            return (scores, outputs), olens
        return scores, olens

    def decide(self, memory: Tensor, mask: Tensor | None, ys: Tensor) -> Gates | LocalGates:
        """Gates of a batch, or what decides them on the way.

        The context is what the model or the search has set; categories of tokens that nobody has set are read from
        the tokens behind ``<sos>``.

        Args:
            memory: (B, T, size) encoder output.
            mask: (B, 1, T) or ``None``.
            ys: (B, L) decoder input that starts with the primer.
        """
        predictor = self.gate_predictor
        given = predictor.current
        known = GatingContext() if given is None else given
        if self.token_context is not None and not set(self.token_context.names) <= set(known.categories):
            categories = {**self.token_context.from_primer(ys), **known.categories}
            predictor.current = replace(known, categories=categories)
        try:
            return predictor(pool(memory, mask))
        finally:
            predictor.current = given

    # -- cached decoding --------------------------------------------------------------------------
    def start(self, memory: Tensor, mask: Tensor | None, primer: Tensor) -> DecoderCache:
        """Open a cache: one hypothesis for each utterance.

        Args:
            memory: (U, T, size) encoder output.
            mask: (U, 1, T), true for frames that count; ``None``: all do.
            primer: (U, L) tokens the hypotheses start with (they are scored by the first ``step``).
        """
        return DecoderCache.start(self.decoders, memory, mask, self.decide(memory, mask, primer))

    def step(self, ys: Tensor, cache: DecoderCache) -> tuple[Tensor, Tensor, DecoderCache]:
        """Score the next token of every hypothesis.

        Args:
            ys: (rows, L) whole prefixes, of which ``cache.length`` tokens are in the cache already.

        Returns:
            scores before softmax (rows, vocab), hidden states (rows, size), the new cache.
        """
        x = embed_new(self.embed, ys, cache.length)
        layers = []
        for index, (layer, layer_cache) in enumerate(zip(self.decoders, cache.layers, strict=True)):
            x, layer_cache = step_layer(layer, layer_cache, x, cache.plan(index, x), cache.per_token)
            layers.append(layer_cache)
        hidden = self.after_norm(x[:, -1]) if self.normalize_before else x[:, -1]
        scores = self.output_layer(hidden) if self.output_layer is not None else hidden
        return scores, hidden, replace(cache, layers=tuple(layers), length=ys.size(1))

    def forward_one_step(
        self,
        tgt: Tensor,
        tgt_mask: Tensor,
        memory: Tensor,
        memory_mask: Tensor | None = None,
        *,
        cache: list[Tensor] | None = None,
        return_hs: bool = False,
    ) -> tuple[Any, list[Tensor]]:
        """ESPnet's own step (cached layer outputs), under the same gates. Arguments and result as in ESPnet."""
        gates = self.decide(memory, memory_mask, tgt).walk()
        x = self.embed(tgt)
        new_cache = []
        for index, layer in enumerate(self.decoders):
            old = None if cache is None else cache[index]
            layer_gates = gates.layer(index, x if old is None else x[:, -1:])
            x = layer(x, tgt_mask, memory, memory_mask, old, None, None, layer_gates)[0]
            new_cache.append(x)
        hidden = self.after_norm(x[:, -1]) if self.normalize_before else x[:, -1]
        scores = hidden
        if self.output_layer is not None:
            scores = torch.log_softmax(self.output_layer(hidden), dim=-1)
        return ((scores, hidden) if return_hs else scores), new_cache

    # -- ESPnet's scorer interface ----------------------------------------------------------------
    def score(self, ys: Tensor, state: HypothesisState | None, x: Tensor, return_hs: bool = False) -> tuple[Any, ...]:
        """Score one hypothesis.

        Args:
            ys: (L,) prefix.
            state: of the prefix without its last token, or ``None``.
            x: (T, size) encoder output.

        Returns:
            log-probabilities (vocab,), [hidden state,] new state.
        """
        logp, states = self.batch_score(ys[None], [state], x[None], return_hs)
        if return_hs:
            return logp[0][0], logp[1], states[0]
        return logp[0], states[0]

    def batch_score(
        self,
        ys: Tensor,
        states: Sequence[HypothesisState | None],
        xs: Tensor,
        return_hs: bool = False,
    ) -> tuple[Any, list[HypothesisState]]:
        """Score a batch of hypotheses.

        Args:
            ys: (n, L) prefixes.
            states: their states (``None`` at the start).
            xs: (n, T, size) encoder output, one copy for each hypothesis.

        Returns:
            log-probabilities (n, vocab) [and hidden states]; new states.
        """
        cache = self._cache_of(ys, states, xs)
        scores, hidden, cache = self.step(ys, cache)
        if self.output_layer is not None:
            scores = torch.log_softmax(scores, dim=-1)
        new_states = [HypothesisState(cache, row) for row in range(len(ys))]
        return ((scores, hidden) if return_hs else scores), new_states

    def _cache_of(self, ys: Tensor, states: Sequence[HypothesisState | None], xs: Tensor) -> DecoderCache:
        first = states[0]
        if first is None:
            shared = xs.size(0) == 1 or xs.stride(0) == 0  # ESPnet expands one utterance for its hypotheses
            if not shared:
                return self.start(xs, None, ys)
            return self.start(xs[:1], None, ys[:1]).select([0] * len(ys))
        if any(s is None or s.cache is not first.cache for s in states):
            raise ValueError("the hypotheses of one batch_score call must come from one earlier call")
        cache = first.cache.select([s.row for s in states if s is not None])
        return _hearing(cache, xs)


def _hearing(cache: DecoderCache, xs: Tensor) -> DecoderCache:
    """The cache with the encoder output of this call, which grows in ESPnet's streaming search."""
    memory = cache.layers[0].source.memory
    if memory.size(0) > 1:
        if xs.shape[1:] != memory.shape[1:]:
            raise ValueError(
                f"the encoder output of several utterances grew from {memory.size(1)} to {xs.size(1)} frames "
                "within a search: streaming decodes one utterance at a time"
            )
        return cache
    if xs.shape[1:] == memory.shape[1:] and (xs.data_ptr() == memory.data_ptr() or torch.equal(xs[0], memory[0])):
        return cache
    return cache.hear(xs[:1])
