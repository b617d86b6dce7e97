"""From gate logits to binary gates in training, with a gradient."""

import torch
from torch import Tensor

from espnet_gated.gating.budget import exact_budgets


def logistic_noise(like: Tensor) -> Tensor:
    """Difference of two Gumbel variables, of the shape of ``like``."""
    uniform = torch.rand_like(like).clamp_(1e-6, 1.0 - 1e-6)
    return torch.log(uniform) - torch.log1p(-uniform)


def gumbel_gates(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Straight-through Gumbel-Softmax over {run, skip}.

    With two classes the Gumbel-Softmax is a sigmoid of the logit plus logistic noise (Jang et al., ICLR 2017): hard
    forward,
    soft backward.

    Args:
        logits: (B, M) log-odds of running.
        temperature: > 0; lower is closer to binary.

    Returns:
        gates (B, M) in {0, 1} with the soft gradient; soft (B, M), probability of running without noise.
    """
    soft = torch.sigmoid((logits + logistic_noise(logits)) / temperature)
    hard = (soft > 0.5).to(soft)
    return hard + soft - soft.detach(), torch.sigmoid(logits)


def budget_gates(
    logits: Tensor, costs: Tensor, sparsity: Tensor, temperature: float, noise: float
) -> tuple[Tensor, Tensor]:
    """Perturb the logits and keep the best that each utterance's budget allows (straight-through).

    Every sample meets its own budget by the rule of exact decoding, so training sees the masks that inference uses.

    Args:
        logits: (B, M).
        costs: (M,) shares that sum to one.
        sparsity: (B,) share to skip.
        temperature: > 0, of the backward sigmoid around the threshold.
        noise: scale of the logistic noise; 0 is deterministic.

    Returns:
        gates (B, M) in {0, 1} with the soft gradient; soft (B, M).
    """
    scores = logits + noise * logistic_noise(logits) if noise > 0 else logits
    chosen = exact_budgets(scores.detach().double().cpu().numpy(), costs.tolist(), sparsity.double().cpu().numpy())
    hard = torch.from_numpy(chosen).to(scores)
    # The threshold lies between the worst that is kept and the best that is dropped. It keeps its gradient, so that
    # raising all logits alike, which changes no mask, gains nothing.
    kept = torch.where(hard > 0, scores, scores.new_full((), torch.inf)).amin(-1, keepdim=True)
    dropped = torch.where(hard > 0, scores.new_full((), -torch.inf), scores).amax(-1, keepdim=True)
    low = torch.where(dropped.isinf(), kept - 2.0, dropped)
    high = torch.where(kept.isinf(), dropped + 2.0, kept)
    soft = torch.sigmoid((scores - 0.5 * (low + high)) / temperature)
    return hard + soft - soft.detach(), torch.sigmoid(logits)
