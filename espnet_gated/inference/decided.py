"""What gate predictors decided for the utterances of a batch, as :class:`DecodeStats` has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from espnet_gated.gating.gates import Gates
from espnet_gated.gating.local import Tally

Positions = dict[str, list[float]]
"""Module name (``0.src_attn``) → open share at each output position."""


@dataclass(frozen=True)
class Decided:
    """What a predictor decided for an utterance.

    Attributes:
        gates: of its batch.
        row: the utterance's.
        tally: of gates that differ by token.
    """

    gates: Gates
    row: int
    tally: Tally | None = None

    @property
    def skipped(self) -> float:
        """Share of the gated cost that was skipped."""
        return float(self.gates.skipped()[self.row])

    @property
    def table(self) -> dict[str, float]:
        """Module name (``0.attn``) → 1 open, 0 closed."""
        gates = self.gates
        values = gates.host[self.row] if gates.host is not None else gates.values[self.row].tolist()
        return {f"{layer}.{name}": float(v) for (layer, name), v in zip(gates.names, values, strict=True)}


def by_position(utterances: Sequence[Mapping[str, Decided]]) -> list[dict[str, Positions]]:
    """For each utterance, stack → gates by output position; of stacks whose gates differ by token.

    A tally that utterances share is read once, as reading it waits for the device.

    Args:
        utterances: stack → what was decided, of each.
    """
    tallies = {id(d.tally): d.tally for decided in utterances for d in decided.values() if d.tally is not None}
    positions = {key: tally.by_position() for key, tally in tallies.items()}
    return [
        {stack: positions[id(d.tally)][d.row] for stack, d in decided.items() if d.tally is not None}
        for decided in utterances
    ]
