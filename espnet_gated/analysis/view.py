"""What a gated system is looked at beside: the dense one, itself at sparsity 0, and what was compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from espnet_gated.analysis.comparisons import Comparison
from espnet_gated.analysis.experiment import STACKS, Decoding, TestSet
from espnet_gated.analysis.sparsity_table import search_of

MIDDLE = 0.5
"""The sparsity at which gates are looked at, or the nearest one decoded."""


@dataclass
class View:
    """One gated system on one test set, and the dense system it is held against."""

    test_set: TestSet
    system: str
    compared: Sequence[Comparison] = ()
    reference: Decoding | None = field(init=False)

    def __post_init__(self) -> None:
        self.reference = self.test_set.reference(search_of(self.system)) or self.open()

    def open(self) -> Decoding | None:
        """The gated system at sparsity 0."""
        return self.test_set.at(self.system, 0.0, 0.0)

    def at(self, encoder: float, decoder: float) -> Decoding | None:
        """The gated system at an asked sparsity."""
        return self.test_set.at(self.system, encoder, decoder)

    def unpruned(self) -> Decoding | None:
        """What the price of pruning alone is taken from: the same checkpoint at sparsity 0, or else the reference."""
        return self.open() or self.reference

    @property
    def cost_base(self) -> Decoding | None:
        """What saved time and FLOPs are taken from: decoded by the same search, as our own saves more than gates do."""
        by_espnet = self.reference is not None and self.reference.system.partition("+")[0] == "espnet"
        return self.open() if by_espnet else self.reference

    def pruned(self) -> list[Decoding]:
        """The gated system wherever it was asked to skip something."""
        return [d for d in self.test_set.of(self.system) if d.series != "none"]

    def middle(self, stack: str) -> Decoding | None:
        """The decoding whose asked sparsity of a stack is nearest to 0.5, with the other stack as open as can be."""
        i = STACKS.index(stack)
        found = [d for d in self.test_set.of(self.system) if d.asked[i] > 0 and stack in d.gates]
        return min(found, key=lambda d: (round(abs(d.asked[i] - MIDDLE), 6), d.asked[1 - i]), default=None)
