"""Beam search over a batch of utterances with a key/value cache and an exact early stop.

Same hypotheses and scores as ESPnet's ``BatchBeamSearch``, whose scorers, weights and options it takes over. Every
utterance owns ``beam_size``
rows of one batch; rows that hold no hypothesis score −inf.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from espnet.nets.batch_beam_search import BatchBeamSearch
from espnet.nets.beam_search import Hypothesis
from espnet.nets.e2e_asr_common import end_detect
from espnet.nets.scorers.length_bonus import LengthBonus
from espnet2.bin.s2t_inference import ScoreFilter
from torch import Tensor

from espnet_gated.decoder import GatedTransformerDecoder
from espnet_gated.gating.gates import Gates
from espnet_gated.inference.cache import DecoderCache
from espnet_gated.inference.ctc import PrimedCTCPrefixScorer

NEVER_POSITIVE = ("decoder", "ctc", "lm", "ngram", "scorefilter")
"""Scorers whose increments are log-probabilities: they bound what a running hypothesis can still gain."""


@dataclass
class Beam:
    """The hypotheses of one utterance and how its search ends."""

    number: int  # place in the caller's batch
    max_length: int
    min_length: int
    ended: list[Hypothesis] = field(default_factory=list)
    steps: int = 0


@dataclass
class SearchState:
    """Rows of a running batch: U utterances × W hypotheses."""

    beams: list[Beam]
    tokens: Tensor  # (U * W, L)
    total: Tensor  # (U, W), −inf where there is no hypothesis
    scores: dict[str, Tensor]  # scorer → (U, W)
    cache: DecoderCache
    memory: Tensor  # (U, T, size)
    states: dict[str, Any]  # other scorers' states


class CachedBeamSearch(BatchBeamSearch):
    """ESPnet's batch beam search, vectorised over utterances.

    Made from ESPnet's ready-built search by changing its class, as ESPnet itself does.
    """

    exact_nbest: bool = False
    """Search on as ESPnet does until its own end detection, so that the whole n-best list is ESPnet's."""

    @classmethod
    def suits(cls, search: BatchBeamSearch) -> bool:
        """Whether the scorers of a search can be served."""
        decoder = search.full_scorers.get("decoder")
        parts_known = all(isinstance(s, PrimedCTCPrefixScorer) for s in search.part_scorers.values())
        return isinstance(decoder, GatedTransformerDecoder) and parts_known and not search.return_hs

    def forward(
        self, x: Tensor, maxlenratio: float = 0.0, minlenratio: float = 0.0, pre_x: Tensor | None = None
    ) -> list[Hypothesis]:
        """Search one utterance: arguments and result as in ESPnet (hypotheses hold no scorer states)."""
        if pre_x is not None:
            raise ValueError("pre_x (sequential attention) is not supported by the cached search")
        primer = [self.sos] if self.hyp_primer is None else list(self.hyp_primer)
        return self.search_batch(x[None], None, [primer], maxlenratio, minlenratio)[0]

    @torch.no_grad()
    def search_batch(
        self,
        memory: Tensor,
        lengths: Sequence[int] | None,
        primers: Sequence[Sequence[int]],
        maxlenratio: float = 0.0,
        minlenratio: float = 0.0,
    ) -> list[list[Hypothesis]]:
        """Search a batch of utterances.

        Args:
            memory: (U, T, size) encoder outputs.
            lengths: valid frames of each; ``None``: all are T long.
            primers: tokens each search starts with; all of one length.
            maxlenratio, minlenratio: bounds of the output length, as in ESPnet.

        Returns:
            hypotheses of each utterance, best first.

        Raises:
            ValueError: if the primers differ in length.
        """
        return self._search(memory, lengths, primers, maxlenratio, minlenratio, None)

    def _search(
        self,
        memory: Tensor,
        lengths: Sequence[int] | None,
        primers: Sequence[Sequence[int]],
        maxlenratio: float,
        minlenratio: float,
        gates: Gates | None,
    ) -> list[list[Hypothesis]]:
        """:meth:`search_batch` with gates that may be decided already."""
        if len({len(p) for p in primers}) != 1:
            raise ValueError(f"primers of one batch must have one length, got {[len(p) for p in primers]}")
        frames = [memory.size(1)] * len(primers) if lengths is None else [int(n) for n in lengths]
        beams = [Beam(i, *self._length_bounds(n, maxlenratio, minlenratio)) for i, n in enumerate(frames)]
        start = self._start(beams, memory, frames, primers, gates)
        state: SearchState | None = start
        gates = start.cache.gates
        detect_end = maxlenratio == 0.0
        step = 0
        while state is not None:
            state = self._step(state, step, detect_end)
            step += 1
        found = []
        for beam in beams:
            if not beam.ended and minlenratio >= 0.1:
                found.append(self._again(beam, memory, frames, primers, maxlenratio, minlenratio, gates))
            else:
                found.append(self._ranked(beam.ended))
        return found

    @staticmethod
    def _length_bounds(frames: int, maxlenratio: float, minlenratio: float) -> tuple[int, int]:
        if maxlenratio == 0:
            longest = frames
        elif maxlenratio < 0:
            longest = -int(maxlenratio)
        else:
            longest = max(1, int(maxlenratio * frames))
        shortest = -int(minlenratio) if minlenratio < 0 else int(minlenratio * frames)
        return longest, shortest

    def _start(
        self,
        beams: list[Beam],
        memory: Tensor,
        frames: Sequence[int],
        primers: Sequence[Sequence[int]],
        gates: Gates | None,
    ) -> SearchState:
        self._primer_length = len(primers[0])
        device, width = memory.device, self.beam_size
        ys = torch.tensor([list(p) for p in primers], device=device)
        mask = None
        if len(set(frames)) > 1 or frames[0] != memory.size(1):
            positions = torch.arange(memory.size(1), device=device)
            mask = (positions < torch.tensor(frames, device=device)[:, None])[:, None]
        total = memory.new_full((len(beams), width), -torch.inf)
        total[:, 0] = 0.0
        states: dict[str, Any] = {}
        for name, scorer in self.scorers.items():
            if isinstance(scorer, PrimedCTCPrefixScorer):
                states[name] = scorer.start_batch(memory, frames, self._primer_length)
            elif not self._is_built_in(scorer):
                states[name] = [
                    scorer.batch_init_state(memory[u, :n]) for u, n in enumerate(frames) for _ in range(width)
                ]
        decoder = self.full_scorers["decoder"]
        if gates is None:
            gates = decoder.decide(memory, mask, ys)
        return SearchState(
            beams=beams,
            tokens=ys.repeat_interleave(width, 0),
            total=total,
            scores={name: memory.new_zeros(len(beams), width) for name in self.scorers},
            cache=DecoderCache.start(decoder.decoders, memory, mask, gates),
            memory=memory,
            states=states,
        )

    @staticmethod
    def _is_built_in(scorer: Any) -> bool:
        return isinstance(scorer, (GatedTransformerDecoder, LengthBonus, ScoreFilter))

    # -- one step ---------------------------------------------------------------------------------
    def _step(self, state: SearchState, step: int, detect_end: bool) -> SearchState | None:
        """Extend every hypothesis by one token; ``None`` when every utterance is done."""
        scores, state = self._score(state)
        weighted = state.total.reshape(-1, 1) + sum(self.weights[k] * v for k, v in scores.items())
        part_scores = self._score_partial(state, weighted)
        for name, value in part_scores.items():
            weighted = weighted + self.weights[name] * value
        utterances, width = state.total.shape
        total, chosen = weighted.view(utterances, -1).topk(width)
        previous = chosen.div(self.n_vocab, rounding_mode="floor")
        tokens = chosen - previous * self.n_vocab
        rows = (previous + torch.arange(utterances, device=chosen.device)[:, None] * width).flatten()

        for name, value in {**scores, **part_scores}.items():
            gained = value.expand(rows.numel(), -1)[rows, tokens.flatten() if value.size(1) > 1 else 0]
            old = state.scores[name].flatten()[rows]
            state.scores[name] = (old + gained).view(utterances, width)
        state.tokens = torch.cat([state.tokens[rows], tokens.view(-1, 1)], dim=1)
        state.total = total
        self._select_states(state, rows, chosen)
        order = rows.tolist()
        state.cache = state.cache.select(order)
        return self._collect(state, step, detect_end)

    def _score(self, state: SearchState) -> tuple[dict[str, Tensor], SearchState]:
        """Scores of the full scorers, each (rows, vocab) or broadcastable."""
        width = state.total.size(1)
        decoder = self.full_scorers["decoder"]
        first = state.cache.length == 0  # one row an utterance so far
        ys = state.tokens[::width] if first else state.tokens
        logits, _, state.cache = decoder.step(ys, state.cache)
        logp = torch.log_softmax(logits, dim=-1)
        if first and width > 1:
            logp = logp.repeat_interleave(width, 0)
            rows = [u for u in range(len(state.beams)) for _ in range(width)]
            state.cache = state.cache.select(rows)
        scores: dict[str, Tensor] = {}
        for name, scorer in self.full_scorers.items():
            if name == "decoder":
                scores[name] = logp
            elif isinstance(scorer, LengthBonus):
                scores[name] = logp.new_ones(1, 1)
            elif isinstance(scorer, ScoreFilter):
                scores[name] = self._filter(scorer, state, logp)
            else:
                xs = state.memory.repeat_interleave(width, 0)
                scores[name], state.states[name] = scorer.batch_score(state.tokens, state.states[name], xs)
        return scores, state

    def _filter(self, scorer: ScoreFilter, state: SearchState, like: Tensor) -> Tensor:
        primers = state.tokens[:, : self._primer_length]
        if bool((primers == scorer.notimestamps).any(1).all()):
            # Every hypothesis has <notimestamps> in its primer: one and the same mask for all steps.
            mask = like.new_zeros(1, like.size(1))
            mask[:, scorer.first_time : scorer.last_time + 1] = -torch.inf
            return mask
        return scorer.batch_score(state.tokens, [None] * len(state.tokens), state.tokens)[0]

    def _score_partial(self, state: SearchState, weighted: Tensor) -> dict[str, Tensor]:
        found = {}
        for name, scorer in self.part_scorers.items():
            ids = None
            if self.do_pre_beam:
                ids = torch.nan_to_num(weighted, neginf=torch.finfo(weighted.dtype).min)
                ids = ids.topk(self.pre_beam_size, dim=-1)[1]
            found[name], state.states[name] = scorer.score_batch(state.tokens, state.states[name], ids)
        return found

    def _select_states(self, state: SearchState, rows: Tensor, chosen: Tensor) -> None:
        for name, old in state.states.items():
            scorer = self.scorers[name]
            if isinstance(scorer, PrimedCTCPrefixScorer):
                state.states[name] = scorer.select_batch(old, chosen)
            else:
                state.states[name] = [scorer.select_state(old, row) for row in rows.tolist()]

    # -- ending -----------------------------------------------------------------------------------
    def _collect(self, state: SearchState, step: int, detect_end: bool) -> SearchState | None:
        """Move ended hypotheses to their utterance and drop the utterances that are done."""
        utterances, width = state.total.shape
        # One copy to the host for all decisions of this step.
        host_total = state.total.tolist()
        host_last = state.tokens[:, -1].view(utterances, width).tolist()
        running = []
        for u, beam in enumerate(state.beams):
            alive = []
            last_step = step == beam.max_length - 1
            for w in range(width):
                if host_total[u][w] == -float("inf"):
                    continue
                if not last_step and host_last[u][w] != self.eos:
                    alive.append(w)
                    continue
                if step >= beam.min_length:
                    beam.ended.append(self._hypothesis(state, u, w, add_eos=last_step))
                state.total[u, w] = -torch.inf
            beam.steps = step + 1
            best_running = max((host_total[u][w] for w in alive), default=-float("inf"))
            if alive and not self._done(beam, step, best_running, state.tokens.size(1), detect_end):
                running.append(u)
        if not running:
            return None
        return state if len(running) == utterances else self._keep(state, running)

    def _hypothesis(self, state: SearchState, u: int, w: int, add_eos: bool) -> Hypothesis:
        yseq = state.tokens[u * state.total.size(1) + w]
        if add_eos:
            yseq = torch.cat([yseq, yseq.new_tensor([self.eos])])
        scores = {name: value[u, w] for name, value in state.scores.items()}
        return Hypothesis(yseq=yseq, score=state.total[u, w].clone(), scores=scores, states={}, hs=[])

    def _done(self, beam: Beam, step: int, best_running: float, length: int, detect_end: bool) -> bool:
        if not beam.ended:
            return False
        if detect_end and end_detect([{"score": float(h.score), "yseq": h.yseq} for h in beam.ended], step):
            return True
        return not self.exact_nbest and self._cannot_win(beam, step, best_running, length)

    def _cannot_win(self, beam: Beam, step: int, best_running: float, length: int) -> bool:
        """Whether no running hypothesis can still beat the best ended one.

        Log-probabilities only fall; a length bonus can add its weight at each of the steps that are left.
        """
        bounded = {*NEVER_POSITIVE, "length_bonus"}
        if any(k not in bounded or self.weights[k] < 0 and k != "length_bonus" for k in self.scorers):
            return False
        left = beam.max_length - 1 - step
        bonus = max(0.0, self.weights["length_bonus"]) if "length_bonus" in self.scorers else 0.0
        bound = best_running + bonus * left
        best = max(float(h.score) for h in beam.ended)
        if self.normalize_length:
            best = max(float(h.score) / (len(h.yseq) - 1) for h in beam.ended)
            # A negative score is divided by at most the longest length, a positive one by at least the present.
            bound = bound / (length + left) if bound < 0 else bound / (length - 1)
        return bound <= best

    def _keep(self, state: SearchState, running: list[int]) -> SearchState:
        width = state.total.size(1)
        index = torch.tensor(running, device=state.total.device)
        rows = (index[:, None] * width + torch.arange(width, device=index.device)).flatten()
        states: dict[str, Any] = {}
        for name, old in state.states.items():
            scorer = self.scorers[name]
            if isinstance(scorer, PrimedCTCPrefixScorer):
                states[name] = scorer.keep_utterances(old, index)
            else:
                states[name] = [old[r] for r in rows.tolist()]
        return SearchState(
            beams=[state.beams[u] for u in running],
            tokens=state.tokens[rows],
            total=state.total[index],
            scores={k: v[index] for k, v in state.scores.items()},
            cache=state.cache.drop_utterances(running),
            memory=state.memory[index],
            states=states,
        )

    def _again(
        self,
        beam: Beam,
        memory: Tensor,
        frames: Sequence[int],
        primers: Sequence[Sequence[int]],
        maxlenratio: float,
        minlenratio: float,
        gates: Gates | None,
    ) -> list[Hypothesis]:
        """Search an utterance of which no hypothesis ended, under the gates it had."""
        logging.warning("no hypothesis has ended: searching again with a smaller minlenratio")
        u = beam.number
        own = None if gates is None else gates.select(torch.tensor([u], device=memory.device))
        smaller = max(0.0, minlenratio - 0.1)
        return self._search(memory[u : u + 1, : frames[u]], None, [primers[u]], maxlenratio, smaller, own)[0]

    def _ranked(self, ended: list[Hypothesis]) -> list[Hypothesis]:
        key: Callable[[Hypothesis], float] = lambda h: float(h.score)  # noqa: E731
        if self.normalize_length:
            key = lambda h: float(h.score) / (len(h.yseq) - 1)  # noqa: E731
        return sorted(ended, key=key, reverse=True)
