"""CTC in joint decoding: prefix scores that start at the first real token, and scores of whole hypotheses.

ESPnet's ``CTCPrefixScoreTH`` takes ``len(prefix) − 1`` as the number of emitted tokens. An S2T search starts with a
primer
(``<sos><lang><task><notimestamps>``) that CTC has never seen, so its first labels are scored as if three had been
emitted already. Here the
primer counts as the start of sentence.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from espnet.nets.ctc_prefix_score import CTCPrefixScore, CTCPrefixScoreTH
from espnet.nets.scorers.ctc import CTCPrefixScorer
from espnet2.bin.s2t_inference import ScoreFilter
from torch import Tensor

from espnet_gated.gating.gates import precise

BLANK = 0
LOG_ZERO = -1e10
"""What ESPnet takes for the logarithm of zero."""


@dataclass(frozen=True)
class CTCBatchState:
    """Prefix scores of U utterances × W hypotheses.

    Attributes:
        logp: (U, T, vocab) CTC log-posteriors.
        frames: valid frames of each utterance.
        impl: ESPnet's scorer for these utterances.
        prefix: what it returned for the hypotheses (``None`` at the start).
        primer_length: tokens of the primer.
    """

    logp: Tensor
    frames: tuple[int, ...]
    impl: CTCPrefixScoreTH
    primer_length: int
    prefix: Any = None


class PrimedCTCPrefixScorer(CTCPrefixScorer):
    """ESPnet's CTC scorer that leaves the primer out.

    Behind ESPnet's own searches the primer's length is told by ``set_primer``; the cached search passes it along.
    """

    primer_length: int = 1

    def set_primer(self, primer: Sequence[int] | None) -> None:
        """Say what the next searches start with (``None``: a single ``<sos>``)."""
        self.primer_length = 1 if primer is None else len(primer)

    def init_state(self, x: Tensor) -> Any:
        """As in ESPnet, with log-posteriors in float32 at least."""
        self.impl = CTCPrefixScore(self._posteriors(x[None])[0].cpu().numpy(), BLANK, self.eos, np)
        return 0, self.impl.initial_state()

    def batch_init_state(self, x: Tensor) -> None:
        """As in ESPnet, with log-posteriors in float32 at least."""
        logp = self._posteriors(x[None])
        self.impl = CTCPrefixScoreTH(logp, torch.tensor([logp.size(1)]), BLANK, self.eos)

    def _posteriors(self, memory: Tensor) -> Tensor:
        """(U, T, vocab) of encoder outputs (U, T, size); half precision has no room for −1e10, nor digits for sums."""
        logp: Tensor = self.ctc.log_softmax(memory).detach()
        return logp.to(precise(logp.dtype))

    def score_partial(self, y: Tensor, ids: Tensor, state: Any, x: Tensor) -> tuple[Tensor, Any]:
        """As in ESPnet, for the tokens behind the primer."""
        return super().score_partial(y[self.primer_length - 1 :], ids, state, x)

    def batch_score_partial(self, y: Tensor, ids: Tensor, state: Any, x: Tensor) -> tuple[Tensor, Any]:
        """As in ESPnet, for the tokens behind the primer."""
        return super().batch_score_partial(y[:, self.primer_length - 1 :], ids, state, x)

    # -- for batches of utterances ----------------------------------------------------------------
    def start_batch(self, memory: Tensor, frames: Sequence[int], primer_length: int) -> CTCBatchState:
        """State before the first token; memory (U, T, size)."""
        return self._state(self._posteriors(memory), tuple(frames), primer_length)

    def _state(self, logp: Tensor, frames: tuple[int, ...], primer_length: int) -> CTCBatchState:
        # ESPnet's scorer overwrites the padding of what it is given, so it gets a copy.
        impl = CTCPrefixScoreTH(logp.clone(), torch.tensor(frames), BLANK, self.eos)
        return CTCBatchState(logp, frames, impl, primer_length)

    def score_batch(self, tokens: Tensor, state: CTCBatchState, ids: Tensor | None) -> tuple[Tensor, Any]:
        """Scores (U * W, vocab) of the next tokens and the state to select from.

        Args:
            tokens: (U * W, L) prefixes with their primer.
            ids: (U * W, n) tokens to score; ``None``: all.
        """
        emitted = tokens[:, state.primer_length - 1 :]
        scores, prefix = state.impl(emitted, state.prefix, ids)
        return scores, replace(state, prefix=prefix)

    def select_batch(self, state: CTCBatchState, chosen: Tensor) -> CTCBatchState:
        """State of the chosen extensions; chosen (U, W) = hypothesis · vocab + token."""
        return replace(state, prefix=state.impl.index_select_state(state.prefix, chosen))

    def keep_utterances(self, state: CTCBatchState, index: Tensor) -> CTCBatchState:
        """State of some utterances."""
        r, psi, low, high = state.prefix
        width = psi.size(0) // len(state.frames)
        rows = (index[:, None] * width + torch.arange(width, device=index.device)).flatten()
        frames = tuple(state.frames[i] for i in index.tolist())
        longest = max(frames)
        kept = self._state(state.logp[index][:, :longest], frames, state.primer_length)
        return replace(kept, prefix=(r[:longest, :, rows], psi[rows], low, high))


@dataclass(frozen=True)
class CTCRescorer:
    """Scores whole hypotheses by CTC, when they end.

    The first of the two ways of joint decoding in Watanabe et al. (2017), "Hybrid CTC/Attention Architecture for
    End-to-End Speech Recognition", rescoring (the other is one-pass): attention alone extends the hypotheses, CTC has
    its say on those that are complete. One sum over alignments for a hypothesis, not one for each candidate of a step.

    Attributes:
        ctc: ESPnet's CTC layer.
        weight: of its log-probability beside the weighted scores of the search.
        unheard: tokens that CTC has never seen (end of sentence, times): left out.
    """

    ctc: Any
    weight: float
    unheard: frozenset[int]

    def posteriors(self, memory: Tensor) -> Tensor:
        """(U, T, vocab) log-posteriors of encoder outputs (U, T, size)."""
        return self.ctc.log_softmax(memory)

    def score(
        self, logp: Tensor, frames: Sequence[int], utterances: Sequence[int], hypotheses: Sequence[Sequence[int]]
    ) -> Tensor:
        """Log-probabilities (N,) of hypotheses, summed over their alignments; −1e10 where no alignment fits, and for
        those with a blank among their tokens, as in ESPnet.

        Args:
            logp: (U, T, vocab) log-posteriors.
            frames: valid frames of each utterance.
            utterances: which of them each hypothesis is of.
            hypotheses: tokens behind the primer.
        """
        columns, labels = [], []
        for tokens in hypotheses:
            heard = [t for t in tokens if t not in self.unheard]
            places = {token: i for i, token in enumerate(dict.fromkeys(heard), start=1)}
            columns.append([BLANK, *places])
            labels.append([places[token] for token in heard])
        device = logp.device
        rows = torch.tensor(utterances, device=device)[None, :, None]
        times = torch.arange(logp.size(1), device=device)[:, None, None]
        # Of each hypothesis the scores of its own tokens are all that an alignment can meet.
        own = logp[rows, times, _padded(columns).to(device)[None]]
        loss = torch.nn.functional.ctc_loss(
            own if own.dtype == torch.float64 else own.float(),
            _padded(labels).to(device),
            torch.tensor([frames[u] for u in utterances]),
            torch.tensor([len(label) for label in labels]),
            reduction="none",
        )
        silent = torch.tensor([BLANK in tokens for tokens in hypotheses], device=device)  # nobody can say it
        return (-loss).clamp_min(LOG_ZERO).masked_fill(silent, LOG_ZERO)


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    longest = max(1, *(len(row) for row in rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


def rescoring(search: Any) -> Any:
    """The search with CTC as a judge of complete hypotheses in place of a scorer of prefixes; shares everything else.

    Args:
        search: a :class:`~espnet_gated.inference.search.CachedBeamSearch` with a CTC scorer.
    """
    other = _without_scorer(search)
    filters = [s for s in search.full_scorers.values() if isinstance(s, ScoreFilter)]
    times = {token for f in filters for token in range(f.first_time, f.last_time + 1)}
    other.rescorer = CTCRescorer(search.part_scorers["ctc"].ctc, search.weights["ctc"], frozenset({search.eos, *times}))
    return other


def _without_scorer(search: Any) -> Any:
    other = copy.copy(search)
    for name in ("scorers", "part_scorers"):
        setattr(other, name, {k: v for k, v in getattr(search, name).items() if k != "ctc"})
    other.do_pre_beam = search.do_pre_beam and bool(other.part_scorers)
    return other


def without_ctc(search: Any) -> Any:
    """The search as ``ctc_weight: 0`` would have made it, sharing everything else; itself if it has no CTC.

    Args:
        search: ESPnet's ``BeamSearch``, or a class of its family.
    """
    if "ctc" not in search.part_scorers:
        return search
    other = _without_scorer(search)
    weights = search.weights
    if "decoder" not in search.scorers:
        raise ValueError("with ctc_weight 1.0 there is no decoder for the other tasks (--ctc_tasks)")
    other.weights = {**weights, "decoder": weights["decoder"] + weights["ctc"], "ctc": 0.0}
    return other
