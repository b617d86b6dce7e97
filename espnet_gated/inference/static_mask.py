"""Baseline: one fixed mask for everyone (static module pruning), made from a trained predictor."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from espnet_gated.gating.budget import exact_budget
from espnet_gated.inference.request import Request
from espnet_gated.inference.speech2text import Speech2Text


@torch.no_grad()
def fix_masks(model: Speech2Text, requests: Sequence[Request]) -> dict[str, list[bool]]:
    """Replace the dynamic gates by the best mask for the average logits of some utterances.

    Args:
        model: gated model with a sparsity set.
        requests: utterances to average over (they need not be those that are decoded).

    Returns:
        the mask of each stack, which every next utterance uses.

    Raises:
        ValueError: for a stack that the search does not run.
    """
    predictors = model.predictors()
    sums = {stack: torch.zeros(len(p.names)) for stack, p in predictors.items()}
    for request in requests:
        model.decode_batch([request])
        for stack, predictor in predictors.items():
            decided = predictor.last
            if decided is None:
                raise ValueError(
                    f"the {stack} does not run where CTC decodes alone, so it has no mask to fix "
                    "(--budget fixed, --ctc_weight 1.0)"
                )
            sums[stack] += decided.logits[0].float().cpu()
    masks = {}
    for stack, predictor in predictors.items():
        sparsity = predictor.policy.sparsity
        asked = predictor.config.default_sparsity if sparsity is None else sparsity
        masks[stack] = exact_budget((sums[stack] / len(requests)).tolist(), predictor.costs.tolist(), asked)
        predictor.set_policy(sparsity, "fixed", mask=tuple(map(float, masks[stack])))
    return masks
