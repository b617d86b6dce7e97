"""CTC prefix scores that start at the first real token.

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

import torch
from espnet.nets.ctc_prefix_score import CTCPrefixScoreTH
from espnet.nets.scorers.ctc import CTCPrefixScorer
from torch import Tensor


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

    def score_partial(self, y: Tensor, ids: Tensor, state: Any, x: Tensor) -> tuple[Tensor, Any]:
        """As in ESPnet, for the tokens behind the primer."""
        return super().score_partial(y[self.primer_length - 1 :], ids, state, x)

    def batch_score_partial(self, y: Tensor, ids: Tensor, state: Any, x: Tensor) -> tuple[Tensor, Any]:
        """As in ESPnet, for the tokens behind the primer."""
        return super().batch_score_partial(y[:, self.primer_length - 1 :], ids, state, x)

    # -- for batches of utterances ----------------------------------------------------------------
    def start_batch(self, memory: Tensor, frames: Sequence[int], primer_length: int) -> CTCBatchState:
        """State before the first token; memory (U, T, size)."""
        logp = self.ctc.log_softmax(memory)
        return self._state(logp, tuple(frames), primer_length)

    def _state(self, logp: Tensor, frames: tuple[int, ...], primer_length: int) -> CTCBatchState:
        # ESPnet's scorer overwrites the padding of what it is given, so it gets a copy.
        impl = CTCPrefixScoreTH(logp.clone(), torch.tensor(frames), 0, self.eos)
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


def without_ctc(search: Any) -> Any:
    """The search as ``ctc_weight: 0`` would have made it, sharing everything else; itself if it has no CTC.

    Args:
        search: ESPnet's ``BeamSearch``, or a class of its family.
    """
    if "ctc" not in getattr(search, "part_scorers", {}):
        return search
    other = copy.copy(search)
    for name in ("scorers", "part_scorers"):
        setattr(other, name, {k: v for k, v in getattr(search, name).items() if k != "ctc"})
    weights = search.weights
    other.weights = {**weights, "decoder": weights["decoder"] + weights["ctc"], "ctc": 0.0}
    other.do_pre_beam = search.do_pre_beam and bool(other.part_scorers)
    return other
