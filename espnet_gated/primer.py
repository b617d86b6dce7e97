"""Stock ESPnet searches tell gated models the language and task.

``ESPnetS2TModel.encode`` is given audio only; the one place where ESPnet's inference says the language and the task
before encoding is
``BeamSearch.set_hyp_primer``. It is wrapped so that a gated model whose decoder or CTC is among the scorers hears of
it.
"""

from __future__ import annotations

import functools
from typing import Any

from espnet.nets.beam_search import BeamSearch


def announce_primers() -> None:
    """Wrap ``BeamSearch.set_hyp_primer`` (once)."""
    original = BeamSearch.set_hyp_primer
    if getattr(original, "announces", False):
        return

    @functools.wraps(original)
    def set_hyp_primer(self: BeamSearch, hyp_primer: Any = None) -> None:
        original(self, hyp_primer)
        for scorer in self.scorers.values():
            announce = getattr(getattr(scorer, "ctc", scorer), "announce_primer", None)
            if announce is not None:
                announce(hyp_primer)
                return

    set_hyp_primer.announces = True  # type: ignore[attr-defined]
    BeamSearch.set_hyp_primer = set_hyp_primer
