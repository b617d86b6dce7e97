"""What the open model teaches the gated one."""

import pytest
import torch

from espnet_gated.gating.distillation import distillation_loss, matching_loss


@pytest.fixture
def states():
    """Student, teacher (B, T, size) and mask (B, T), whose last positions do not count."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5, generator=generator, requires_grad=True)
    return student, teacher, torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])


@pytest.mark.parametrize("loss", [distillation_loss, matching_loss])
def test_a_student_learns_what_it_lacks_where_it_counts(loss, states):
    student, teacher, mask = states
    pupil, tutor = student.detach().requires_grad_(), teacher.detach().requires_grad_()
    value = loss(pupil, tutor, mask)
    assert float(value) > 0
    value.backward()
    assert tutor.grad is None
    assert (pupil.grad[~mask] == 0).all() and (pupil.grad[mask] != 0).all()
    assert float(loss(tutor, tutor, mask)) == pytest.approx(0.0, abs=1e-6)


def test_an_error_is_relative_to_the_teacher(states):
    student, teacher, mask = states
    assert float(matching_loss(torch.zeros_like(teacher), teacher, mask)) == pytest.approx(1.0)
    assert float(matching_loss(7 * student, 7 * teacher, mask)) == pytest.approx(
        float(matching_loss(student, teacher, mask)), rel=1e-5
    )
    assert float(matching_loss(1.5 * teacher, teacher, mask)) == pytest.approx(0.25)


def test_a_divergence_is_a_sum_over_positions_and_a_mean_over_utterances(states):
    student, teacher, mask = states
    logp, target = student.log_softmax(-1), teacher.log_softmax(-1)
    each = (target.exp() * (target - logp)).sum(-1)
    assert float(distillation_loss(student, teacher, mask)) == pytest.approx(float(each[mask].sum() / 3), rel=1e-5)
