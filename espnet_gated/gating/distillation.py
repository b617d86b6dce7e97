"""Knowledge distillation from the open (dense) model to the gated one."""

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
