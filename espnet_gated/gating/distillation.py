"""Knowledge distillation from the open (dense) model to the gated one: by its posteriors, or by its hidden states."""

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of the student under the teacher's posteriors, minus the teacher's entropy (KL divergence).

    Args:
        student: (B, T, vocab) scores before softmax.
        teacher: (B, T, vocab) scores before softmax; no gradient flows to it.
        mask: (B, T), true for positions that count.

    Returns:
        scalar, nats per utterance (summed over positions, averaged over the batch, as ESPnet's attention loss).
    """
    teacher_logp = F.log_softmax(teacher.detach().float(), dim=-1)
    gap = teacher_logp - F.log_softmax(student.float(), dim=-1)
    divergence = (teacher_logp.exp() * gap).sum(-1)
    return (divergence * mask.to(divergence)).sum() / student.size(0)


def matching_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared error of the student's hidden states, relative to the mean square of the teacher's.

    Subnetworks of several widths and depths learn from the hidden states of the whole one in DynaBERT too (Hou et al.,
    NeurIPS 2020).

    Args:
        student: (B, T, size).
        teacher: (B, T, size); no gradient flows to it.
        mask: (B, T), true for positions that count.

    Returns:
        scalar, mean over the positions that count; 1 is what zeros in place of the student would get.
    """
    target, weight = teacher.detach().float(), mask.to(torch.float32)[:, :, None]
    error = ((student.float() - target).square() * weight).sum()
    return error / (target.square() * weight).sum()
