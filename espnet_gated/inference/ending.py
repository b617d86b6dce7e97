"""When the search of an utterance is over, and which of its hypotheses is the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from espnet.nets.beam_search import Hypothesis
from espnet.nets.e2e_asr_common import end_detect

NEVER_POSITIVE = ("decoder", "ctc", "lm", "ngram", "scorefilter")
"""Scorers whose increments are log-probabilities: they bound what a running hypothesis can still gain."""


@dataclass(frozen=True)
class Ended:
    """A hypothesis that has ended, and its scores on the host, where the end of the search is decided.

    Attributes:
        score: by which hypotheses are ranked; that of the CTC rescorer is in it.
        searched: the same without the rescorer, as running hypotheses are scored.
    """

    hypothesis: Hypothesis
    score: float
    searched: float


@dataclass
class Beam:
    """The hypotheses of one utterance and how its search ends."""

    number: int  # place in the caller's batch
    max_length: int
    min_length: int
    ended: list[Ended] = field(default_factory=list)


def length_bounds(frames: int, maxlenratio: float, minlenratio: float) -> tuple[int, int]:
    """Longest and shortest output of an utterance, in tokens, as in ESPnet."""
    if maxlenratio == 0:
        longest = frames
    elif maxlenratio < 0:
        longest = -int(maxlenratio)
    else:
        longest = max(1, int(maxlenratio * frames))
    shortest = -int(minlenratio) if minlenratio < 0 else int(minlenratio * frames)
    return longest, shortest


@dataclass(frozen=True)
class EndRule:
    """ESPnet's end of a search, and an exact one that comes earlier.

    Attributes:
        weights: of the scorers.
        normalize_length: scores are compared by token, as in ESPnet.
        detect_end: ESPnet's end detection, for searches without a longest length.
        exact_nbest: nothing but ESPnet's own end.
    """

    weights: Mapping[str, float]
    normalize_length: bool
    detect_end: bool
    exact_nbest: bool

    def done(self, beam: Beam, step: int, best_running: float, length: int) -> bool:
        """Whether an utterance needs no further step.

        Args:
            step: the one that is over, from 0.
            best_running: best score of its hypotheses that have not ended.
            length: tokens of those, with the primer.
        """
        if not beam.ended:
            return False
        if self.detect_end and self._detects_end(beam, step):
            return True
        return not self.exact_nbest and self._cannot_win(beam, step, best_running, length)

    @staticmethod
    def _detects_end(beam: Beam, step: int) -> bool:
        """ESPnet's end detection: what has ended of late scores far below the best.

        By the search's own scores: rescored, what ended too early is far below the best, be it late or not.
        """
        return bool(end_detect([{"score": e.searched, "yseq": e.hypothesis.yseq} for e in beam.ended], step))

    def _cannot_win(self, beam: Beam, step: int, best_running: float, length: int) -> bool:
        """Whether no running hypothesis can still beat the best ended one.

        Log-probabilities only fall; a length bonus can add its weight at each of the steps that are left.
        """
        bounded = {*NEVER_POSITIVE, "length_bonus"}
        if any(k not in bounded or w < 0 and k != "length_bonus" for k, w in self.weights.items()):
            return False
        left = beam.max_length - 1 - step
        bound = best_running + max(0.0, self.weights.get("length_bonus", 0.0)) * left
        best = max(self._key(e) for e in beam.ended)
        if self.normalize_length:
            # A negative score is divided by at most the longest length, a positive one by at least the present.
            bound = bound / (length + left) if bound < 0 else bound / (length - 1)
        return bound <= best

    def _key(self, ended: Ended) -> float:
        return ended.score / (len(ended.hypothesis.yseq) - 1) if self.normalize_length else ended.score

    def ranked(self, ended: list[Ended]) -> list[Hypothesis]:
        """Hypotheses, best first."""
        return [e.hypothesis for e in sorted(ended, key=self._key, reverse=True)]
