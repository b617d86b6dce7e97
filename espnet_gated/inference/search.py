"""Beam search over a batch of utterances with a key/value cache and an exact early stop.

Same hypotheses and scores as ESPnet's ``BatchBeamSearch``, whose scorers, weights and options it takes over. Every
utterance owns ``beam_size``
rows of one batch; rows that hold no hypothesis score −inf.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from espnet.nets.batch_beam_search import BatchBeamSearch
from espnet.nets.beam_search import Hypothesis
from espnet.nets.scorers.length_bonus import LengthBonus
from espnet2.bin.s2t_inference import ScoreFilter
from torch import Tensor

from espnet_gated.decoder import GatedTransformerDecoder
from espnet_gated.gating.gates import Gates
from espnet_gated.gating.local import LocalGates
from espnet_gated.inference.cache import DecoderCache
from espnet_gated.inference.ctc import CTCRescorer, PrimedCTCPrefixScorer
from espnet_gated.inference.ending import Beam, Ended, EndRule, length_bounds
from espnet_gated.inference.topk import top_k


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
    posteriors: Tensor | None  # (utterances of the batch, T, vocab) of CTC, where it judges what has ended
    frames: Sequence[int]  # of each utterance of the batch


@dataclass(frozen=True)
class _Extensions:
    """The best extensions of each utterance's hypotheses, (U, W) each."""

    total: Tensor
    previous: Tensor  # hypothesis that is extended
    tokens: Tensor
    gained: dict[str, Any]  # scorer → what it gave


class CachedBeamSearch(BatchBeamSearch):
    """ESPnet's batch beam search, vectorised over utterances.

    Made from ESPnet's ready-built search by changing its class, as ESPnet itself does.
    """

    exact_nbest: bool = False
    """Search on as ESPnet does until its own end detection, so that the whole n-best list is ESPnet's."""

    rescorer: CTCRescorer | None = None
    """CTC scores hypotheses when they end. That can only lower them, so the early stop stays exact."""

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
        gates: Gates | LocalGates | None,
    ) -> list[list[Hypothesis]]:
        """:meth:`search_batch` with gates that may be decided already."""
        if len({len(p) for p in primers}) != 1:
            raise ValueError(f"primers of one batch must have one length, got {[len(p) for p in primers]}")
        frames = [memory.size(1)] * len(primers) if lengths is None else [int(n) for n in lengths]
        beams = [Beam(i, *length_bounds(n, maxlenratio, minlenratio)) for i, n in enumerate(frames)]
        start = self._start(beams, memory, frames, primers, gates)
        state: SearchState | None = start
        gates = start.cache.gates
        weights = {name: self.weights[name] for name in self.scorers}
        rule = EndRule(weights, self.normalize_length, detect_end=maxlenratio == 0.0, exact_nbest=self.exact_nbest)
        step = 0
        while state is not None:
            state = self._step(state, step, rule)
            step += 1
        found = []
        for beam in beams:
            if not beam.ended and minlenratio >= 0.1:
                found.append(self._again(beam, memory, frames, primers, maxlenratio, minlenratio, gates))
            else:
                found.append(rule.ranked(beam.ended))
        return found

    def _start(
        self,
        beams: list[Beam],
        memory: Tensor,
        frames: Sequence[int],
        primers: Sequence[Sequence[int]],
        gates: Gates | LocalGates | None,
    ) -> SearchState:
        self._primer_length = len(primers[0])
        filters = [s for s in self.full_scorers.values() if isinstance(s, ScoreFilter)]
        self._no_times = all(f.notimestamps in primer for f in filters for primer in primers)
        device, width = memory.device, self.beam_size
        ys = torch.tensor([list(p) for p in primers], device=device)
        mask = None
        if len(set(frames)) > 1 or frames[0] != memory.size(1):
            positions = torch.arange(memory.size(1), device=device)
            mask = (positions < torch.tensor(frames, device=device)[:, None])[:, None]
        # Sums of many scores need more digits than half precision has.
        score_type = torch.float32 if memory.dtype in (torch.float16, torch.bfloat16) else memory.dtype
        total = memory.new_full((len(beams), width), -torch.inf, dtype=score_type)
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
            scores={name: torch.zeros_like(total) for name in self.scorers},
            cache=DecoderCache.start(decoder.decoders, memory, mask, gates),
            memory=memory,
            states=states,
            posteriors=None if self.rescorer is None else self.rescorer.posteriors(memory),
            frames=frames,
        )

    @staticmethod
    def _is_built_in(scorer: Any) -> bool:
        return isinstance(scorer, (GatedTransformerDecoder, LengthBonus, ScoreFilter))

    # -- one step ---------------------------------------------------------------------------------
    def _step(self, state: SearchState, step: int, rule: EndRule) -> SearchState | None:
        """Extend every hypothesis by one token; ``None`` when every utterance is done."""
        best = self._best_of_decoder(state) if self._only_decoder(state) else self._best_of_all(state)
        utterances, width = state.total.shape
        start = torch.arange(utterances, device=best.previous.device)[:, None]
        rows = (best.previous + start * width).flatten()
        for name, gained in best.gained.items():
            state.scores[name] = state.scores[name].gather(1, best.previous) + gained
        state.tokens = torch.cat([state.tokens[rows], best.tokens.view(-1, 1)], dim=1)
        state.total = best.total
        self._select_states(state, rows, best.previous * self.n_vocab + best.tokens)
        per_utt = len(state.cache.utt_of_row) // utterances  # 1 in the first step
        if width > 1:
            owners = tuple(u for u in range(utterances) for _ in range(width))
            in_cache = rows if per_utt == width else (best.previous + start * per_utt).flatten()
            state.cache = state.cache.reorder(in_cache, owners)
        return self._collect(state, step, rule)

    def _only_decoder(self, state: SearchState) -> bool:
        """Whether nothing but the decoder tells one token of a hypothesis from another (or rules it out)."""
        if self.part_scorers or not all(self._is_built_in(s) for s in self.full_scorers.values()):
            return False
        filtered = any(isinstance(s, ScoreFilter) for s in self.full_scorers.values())
        return state.total.size(1) <= self.n_vocab and (self._no_times or not filtered)

    def _best_of_decoder(self, state: SearchState) -> _Extensions:
        """The best tokens of every hypothesis are the decoder's best, so only those are normalised and compared."""
        utterances, width = state.total.shape
        logits, _, state.cache = self.full_scorers["decoder"].step(self._new_inputs(state), state.cache)
        logits = logits.to(state.total.dtype)
        norm = logits.logsumexp(-1, keepdim=True)
        weight, bonus = self.weights["decoder"], 0.0
        for name, scorer in self.full_scorers.items():
            if isinstance(scorer, ScoreFilter):
                logits[:, scorer.first_time : scorer.last_time + 1] = -torch.inf
            elif isinstance(scorer, LengthBonus):
                bonus = self.weights[name]
        logits, ids = top_k(logits, width)
        logp = (logits - norm).view(utterances, -1, width)
        candidates = state.total[:, : logp.size(1), None] + (weight * logp + bonus)
        total, chosen = candidates.flatten(1).topk(width)
        gained: dict[str, Any] = {"decoder": logp.flatten(1).gather(1, chosen)}
        gained |= {n: 1.0 for n, s in self.full_scorers.items() if isinstance(s, LengthBonus)}
        previous = chosen.div(width, rounding_mode="floor")
        return _Extensions(total, previous, ids.view(utterances, -1).gather(1, chosen), gained)

    def _best_of_all(self, state: SearchState) -> _Extensions:
        """Every scorer scores every token (or, with a pre-beam, those that are left)."""
        scores, state = self._score(state)
        weighted = state.total.reshape(-1, 1) + sum(self.weights[k] * v for k, v in scores.items())
        part_scores = self._score_partial(state, weighted)
        for name, value in part_scores.items():
            weighted = weighted + self.weights[name] * value
        utterances, width = state.total.shape
        if width <= self.n_vocab:
            values, ids = top_k(weighted, width)
            total, chosen = values.view(utterances, -1).topk(width)
            previous = chosen.div(width, rounding_mode="floor")
            tokens = ids.view(utterances, -1).gather(1, chosen)
        else:
            total, chosen = weighted.view(utterances, -1).topk(width)
            previous = chosen.div(self.n_vocab, rounding_mode="floor")
            tokens = chosen - previous * self.n_vocab
        start = torch.arange(utterances, device=chosen.device)[:, None] * width
        gained = {}
        for name, value in {**scores, **part_scores}.items():
            every_row = value.expand(utterances * width, -1)
            gained[name] = every_row[previous + start, tokens if value.size(1) > 1 else 0]
        return _Extensions(total, previous, tokens, gained)

    def _new_inputs(self, state: SearchState) -> Tensor:
        """Prefixes that the decoder has rows for: in the first step one an utterance."""
        return state.tokens[:: state.total.size(1)] if state.cache.length == 0 else state.tokens

    def _score(self, state: SearchState) -> tuple[dict[str, Tensor], SearchState]:
        """Scores of the full scorers, each (rows, vocab) or broadcastable."""
        width = state.total.size(1)
        decoder = self.full_scorers["decoder"]
        first = state.cache.length == 0  # one row an utterance so far
        logits, _, state.cache = decoder.step(self._new_inputs(state), state.cache)
        logp = torch.log_softmax(logits.to(state.total.dtype), dim=-1)
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
        if self._no_times:
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
                ids = top_k(ids, self.pre_beam_size)[1]
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
    def _collect(self, state: SearchState, step: int, rule: EndRule) -> SearchState | None:
        """Move ended hypotheses to their utterance and drop the utterances that are done."""
        utterances, width = state.total.shape
        # One copy to the host for all decisions of this step (token ids are exact in float32).
        last = state.tokens[:, -1].view(utterances, width)
        host_total, host_last = torch.stack((state.total, last.to(state.total.dtype))).tolist()
        ended: list[tuple[int, int]] = []
        alive: list[list[int]] = [[] for _ in state.beams]
        for u, beam in enumerate(state.beams):
            last_step = step == beam.max_length - 1
            for w in range(width):
                if host_total[u][w] == -float("inf"):
                    continue
                if last_step or host_last[u][w] == self.eos:
                    ended.append((u, w))
                else:
                    alive[u].append(w)
        self._end(state, ended, step, host_total)
        running = []
        for u, beam in enumerate(state.beams):
            best_running = max((host_total[u][w] for w in alive[u]), default=-float("inf"))
            if alive[u] and not rule.done(beam, step, best_running, state.tokens.size(1)):
                running.append(u)
        if not running:
            return None
        return state if len(running) == utterances else self._keep(state, running)

    def _end(
        self, state: SearchState, rows: list[tuple[int, int]], step: int, host_total: Sequence[Sequence[float]]
    ) -> None:
        """Give hypotheses (utterance, place) that end with this step to their utterances, and free their places.

        Args:
            host_total: the scores (U, W) of the step on the host.
        """
        long_enough = [(u, w) for u, w in rows if step >= state.beams[u].min_length]
        found = [self._hypothesis(state, u, w, step == state.beams[u].max_length - 1) for u, w in long_enough]
        scores = searched = [host_total[u][w] for u, w in long_enough]
        beams = [state.beams[u] for u, _ in long_enough]
        if found and self.rescorer is not None and state.posteriors is not None:
            found = self._rescored(found, state.posteriors, state.frames, [beam.number for beam in beams])
            scores = torch.stack([h.score for h in found]).tolist()
        for beam, *scored in zip(beams, found, scores, searched, strict=True):
            beam.ended.append(Ended(*scored))
        for u, w in rows:
            state.total[u, w] = -torch.inf

    def _hypothesis(self, state: SearchState, u: int, w: int, add_eos: bool) -> Hypothesis:
        yseq = state.tokens[u * state.total.size(1) + w]
        if add_eos:
            yseq = torch.cat([yseq, yseq.new_tensor([self.eos])])
        scores = {name: value[u, w] for name, value in state.scores.items()}
        return Hypothesis(yseq=yseq, score=state.total[u, w].clone(), scores=scores, states={}, hs=[])

    def _rescored(
        self, found: list[Hypothesis], posteriors: Tensor, frames: Sequence[int], utterances: list[int]
    ) -> list[Hypothesis]:
        assert self.rescorer is not None
        emitted = [h.yseq[self._primer_length :].tolist() for h in found]
        heard = self.rescorer.score(posteriors, frames, utterances, emitted)
        return [
            h._replace(score=h.score + self.rescorer.weight * ctc, scores=h.scores | {"ctc": ctc})
            for h, ctc in zip(found, heard, strict=True)
        ]

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
            posteriors=state.posteriors,
            frames=state.frames,
        )

    def _again(
        self,
        beam: Beam,
        memory: Tensor,
        frames: Sequence[int],
        primers: Sequence[Sequence[int]],
        maxlenratio: float,
        minlenratio: float,
        gates: Gates | LocalGates | None,
    ) -> list[Hypothesis]:
        """Search an utterance of which no hypothesis ended, under the gates it had."""
        logging.warning("no hypothesis has ended: searching again with a smaller minlenratio")
        u = beam.number
        own = None if gates is None else gates.select([u])
        smaller = max(0.0, minlenratio - 0.1)
        return self._search(memory[u : u + 1, : frames[u]], None, [primers[u]], maxlenratio, smaller, own)[0]
