"""Layer gates above module gates: a module runs when its layer's gate and its own are both open."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_gated.gating.sampler import gumbel_gates


@dataclass(frozen=True)
class Scores:
    """What a predictor says of some modules, before anything is decided.

    Attributes:
        modules: (…, M) log-odds of each module's own gate.
        layers: (…, L) log-odds of the layer gates above them; ``None``: there are none.
        layer_of: (M,) which of the L layers a module belongs to.
    """

    modules: Tensor
    layers: Tensor | None = None
    layer_of: Tensor | None = None

    @classmethod
    def split(cls, output: Tensor, layer_of: Tensor | None) -> Scores:
        """Part a predictor's output (…, M [+ L]); ``layer_of`` is ``None`` where there is no hierarchy."""
        if layer_of is None:
            return cls(output)
        count = layer_of.numel()
        return cls(output[..., :count], output[..., count:], layer_of.to(output.device))

    @property
    def joint(self) -> Tensor:
        """Log-odds that both gates are open, (…, M): what modules are ranked by under a budget."""
        above = self._above()
        if above is None:
            return self.modules
        # P = σ(a)·σ(b), so (1 − P) / P = e^−a + e^−b + e^−(a + b).
        return -torch.logsumexp(torch.stack([-self.modules, -above, -self.modules - above]), dim=0)

    @property
    def both(self) -> Tensor:
        """(…, M), positive where the layer's gate and the module's own are: what a threshold looks at."""
        above = self._above()
        return self.modules if above is None else torch.minimum(self.modules, above)

    def sample(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Straight-through Gumbel-Softmax: gates (…, M), the product of both; probabilities (…, M).

        A layer gate is drawn once for all of its modules.
        """
        gates, soft = gumbel_gates(self.modules, temperature)
        if self.layers is None or self.layer_of is None:
            return gates, soft
        above, above_soft = gumbel_gates(self.layers, temperature)
        return gates * above[..., self.layer_of], soft * above_soft[..., self.layer_of]

    def _above(self) -> Tensor | None:
        if self.layers is None or self.layer_of is None:
            return None
        return self.layers[..., self.layer_of]


def prior_log_odds(sparsity: Tensor, hierarchy: bool) -> Tensor:
    """Log-odds that every gate starts from, so that an untrained predictor opens the asked share: (B,) → (B,).

    With a hierarchy two gates must be open, each with probability ``√(1 − s)``.
    """
    opened = 1.0 - sparsity.clamp(0.01, 0.99)
    return torch.logit(opened.sqrt() if hierarchy else opened)
