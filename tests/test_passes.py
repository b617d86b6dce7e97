"""Further passes of a training batch: several decoder sparsities, pruned encoders, and what teaches them."""

import pytest
import torch
from tiny import models, training_batch

from espnet_gated.gating.targets import parse_joint_targets
from espnet_gated.passes import behind_last, captured

FINAL = {"target_sparsity": [0.0, 0.7], "freeze_steps": 1, "sampler": "budget", "condition_on": ["sparsity"]}


def test_several_decoder_targets_for_one_pass_through_the_encoder():
    """The loss of a batch with a list of decoder sparsities is the mean of those at each; the encoder runs once."""
    model = models(FINAL, joint_targets=[[0.3, [0.0, 0.5, 0.3], 1.0]], targets_per="batch")[1].train()
    for predictor in model.gate_predictors().values():
        predictor.num_updates += 1
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    together, stats, _ = model(**training_batch())
    assert len(calls) == 1
    assert float(stats["target_encoder"]) == pytest.approx(0.3)
    assert float(stats["target_decoder"]) == pytest.approx(0.8 / 3)
    each = []
    for sparsity in (0.0, 0.5, 0.3):
        model.joint_targets = parse_joint_targets([[0.3, sparsity, 1.0]])
        each.append(model(**training_batch()))
    assert len({round(float(loss), 4) for loss, _, _ in each}) == 3
    torch.testing.assert_close(together, torch.stack([loss for loss, _, _ in each]).mean(0))
    for name in ("loss_att", "acc", "loss_sparsity", "sparsity_decoder"):
        assert float(stats[name]) == pytest.approx(sum(float(s[name]) for _, s, _ in each) / 3, rel=1e-5), name


def test_the_open_decoder_teaches_the_pruned_one():
    """``distill_decoders``: its weight times the divergence from the first of the batch's decoder sparsities."""

    def losses(decoders, weight):
        several = {"joint_targets": [[0.3, decoders, 1.0]], "targets_per": "batch", "distill_decoders": weight}
        model = models(FINAL, **several)[1].train()
        for predictor in model.gate_predictors().values():
            predictor.num_updates += 1
        loss, stats, _ = model(**training_batch())
        return float(loss), stats

    plain, silent = losses([0.0, 0.5, 0.3], 0.0)
    taught, stats = losses([0.0, 0.5, 0.3], 2.0)
    assert "loss_distill_decoder" not in silent
    assert float(stats["loss_distill_decoder"]) > 1e-3
    assert taught - plain == pytest.approx(2.0 * float(stats["loss_distill_decoder"]), rel=1e-4)
    assert float(losses([0.5, 0.5], 2.0)[1]["loss_distill_decoder"]) == pytest.approx(0.0, abs=1e-6)


def test_the_open_decoder_may_be_the_only_teacher():
    """``distill_decoders_alone``: the labels are the first decoder's, the divergence ends at the decoder."""

    def gradients(decoders, **options):
        several = {"joint_targets": [[0.3, decoders, 1.0]], "targets_per": "batch", "sparsity_weight": 0.0}
        model = models(FINAL, **several, **options)[1].train()
        for predictor in model.gate_predictors().values():
            predictor.num_updates += 1
        loss, stats, _ = model(**training_batch())
        loss.backward()
        of = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return float(loss), stats, of

    teacher = {"distill_decoders": 2.0, "distill_decoders_alone": True}
    alone, _, usual = gradients([0.0])
    taught, stats, changed = gradients([0.0, 0.5, 0.3], **teacher)
    divergence = float(stats["loss_distill_decoder"])
    assert divergence > 1e-3 and taught - alone == pytest.approx(2.0 * divergence, rel=1e-4)
    both, with_labels, _ = gradients([0.0, 0.5, 0.3], distill_decoders=2.0)
    assert float(with_labels["loss_distill_decoder"]) == pytest.approx(divergence, rel=1e-5)
    assert abs(both - taught) > 1e-3
    differs = {name for name in usual if not torch.equal(usual[name], changed[name])}
    assert differs and all(name.startswith("decoder.") for name in differs)
    with pytest.raises(ValueError, match="distill_decoders_alone needs distill_decoders above 0"):
        models(FINAL, distill_decoders_alone=True)


def whole_and_pruned(weight, joint=((0.0, 0.5, 1.0),), anchors=(0.6,), share=0.25, batch=None):
    """A model with final masks, and what its encoder returned while it passed a batch: a list of (B, T, size)."""
    gating = FINAL | {"anchors": list(anchors), "anchor_prob": 1.0}
    options = {"joint_targets": joint, "distill_encoder": weight, "distill_encoder_share": share}
    model = models(gating, **options)[1].train()
    for predictor in model.gate_predictors().values():
        predictor.num_updates += 1
    passes = []
    model.encoder.register_forward_hook(lambda _, __, result: passes.append(result[0]))
    loss, stats, _ = model(**(batch or training_batch()))
    return model, passes, loss, stats


@pytest.mark.parametrize(("share", "rows"), [(0.25, 1), (1.0, None)])
def test_the_whole_encoder_teaches_the_pruned_one(share, rows):
    """``distill_encoder``: its weight times the relative squared error of the pruned pass of some utterances."""
    _, _, plain, plain_stats = whole_and_pruned(0.0)
    model, (whole, pruned), loss, stats = whole_and_pruned(3.0, share=share)
    rows = rows or len(whole)
    assert pruned.shape == whole[:rows].shape
    mismatch = float(stats["loss_distill_encoder"])
    assert mismatch > 1e-3
    lengths = model.encode(**{k: v for k, v in training_batch().items() if k.startswith("speech")})[1][:rows]
    valid = torch.arange(whole.size(1)) < lengths[:, None]
    error, power = (pruned - whole[:rows])[valid].square().sum(), whole[:rows][valid].square().sum()
    assert mismatch == pytest.approx(float(error / power), rel=1e-5)
    # Beside its own weight it adds to the sparsity loss: the mean of both passes' stands for the encoder's.
    extra = 10.0 * (float(stats["loss_sparsity"]) - float(plain_stats["loss_sparsity"]))
    assert float(loss) - float(plain) == pytest.approx(3.0 * mismatch + extra, rel=1e-4)
    assert float(stats["target_encoder"]) == pytest.approx(0.6 * rows / (len(whole) + rows))
    assert {int(p.num_updates) for p in model.gate_predictors().values()} == {1}


def test_a_pruned_pass_that_prunes_nothing_has_nothing_to_learn():
    _, passes, _, stats = whole_and_pruned(1.0, anchors=(0.0,))
    assert len(passes) == 2
    assert float(stats["loss_distill_encoder"]) == 0.0


def test_utterances_with_a_pruned_encoder_teach_nothing():
    _, passes, _, stats = whole_and_pruned(1.0, joint=((0.3, 0.5, 1.0),))
    assert len(passes) == 1
    assert stats["loss_distill_encoder"].isnan()  # every process of a data-parallel training has the same statistics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill_encoder_share": 0.0}, r"distill_encoder_share must be in \(0, 1\], got 0.0"),
        ({"gating": {"target_sparsity": 0.5}}, r"no utterance trains with its encoder open; .* is 0.5\)"),
        ({"gating": FINAL | {"dense_prob": 0.0}}, r"no utterance trains with its encoder open; .* is 0.0 to 0.7\)"),
    ],
)
def test_impossible_distillation_of_the_encoder(options, message):
    options = {"gating": FINAL, "distill_encoder": 1.0} | options
    with pytest.raises(ValueError, match=message):
        models(options.pop("gating"), **options)


def test_updates_are_counted_by_batches():
    """A decoder that is trained at two sparsities a batch anneals as fast as the encoder."""
    several = {"joint_targets": [[0.0, [0.0, 0.5], 1.0]], "targets_per": "batch"}
    model = models({"target_sparsity": [0.0, 0.7]}, **several)[1].train()
    for _ in range(2):
        model(**training_batch())[0].backward()
    assert {int(predictor.num_updates) for predictor in model.gate_predictors().values()} == {2}


def test_several_decoder_targets_need_one_target_a_batch():
    with pytest.raises(ValueError, match="list of decoder sparsities need targets_per: batch"):
        models(joint_targets=[[0.0, [0.0, 0.5], 1.0]])


def test_all_teachers_together():
    """The open model's posteriors are of one pass; the student's are those of its first decoder."""
    several = {"joint_targets": [[0.0, [0.0, 0.5], 1.0]], "targets_per": "batch", "distill_decoders": 1.0}
    for alone in (False, True):
        options = several | {"distill_decoders_alone": alone, "distill_weight": 1.0, "distill_encoder": 1.0}
        model = models(FINAL, **options)[1].train()
        for predictor in model.gate_predictors().values():
            predictor.num_updates += 1
        loss, stats, _ = model(**training_batch())
        loss.backward()
        assert float(stats["loss_distill"]) == pytest.approx(0.0, abs=1e-6)  # the first is the open model
        assert float(stats["loss_distill_decoder"]) > 1e-3 and float(stats["loss_distill_encoder"]) > 1e-3


def test_a_pruned_pass_of_the_shorter_utterances():
    """``distill_encoder`` where the longest utterance of the batch does not pass again."""
    batch = {name: value.flip(0) for name, value in training_batch().items()}
    assert int(batch["speech_lengths"][0]) < int(batch["speech_lengths"].max())
    model, passes, loss, stats = whole_and_pruned(1.0, batch=batch)
    loss.backward()
    whole, pruned = passes
    assert pruned.size(1) < whole.size(1)
    frames = pruned.size(1)
    expected = (pruned[0] - whole[0, :frames]).square().sum() / whole[0, :frames].square().sum()
    assert float(stats["loss_distill_encoder"]) == pytest.approx(float(expected), rel=1e-4)


def test_a_teacher_needs_a_pupil():
    with pytest.raises(ValueError, match="distill_decoders needs joint_targets with a list of decoder sparsities"):
        models(FINAL, distill_decoders=1.0, joint_targets=[[0.0, 0.5, 1.0]])


def test_a_batch_with_one_decoder_has_the_statistics_of_others():
    several = {"joint_targets": [[0.0, [0.0, 0.5], 0.5], [0.3, 0.5, 0.5]], "targets_per": "batch"}
    model = models(FINAL, **several, distill_decoders=1.0)[1].train()
    found = [model(**training_batch()) for _ in range(12)]
    values = torch.stack([stats["loss_distill_decoder"] for _, stats, _ in found])
    assert 0 < values.isnan().sum() < 12
    assert all(loss.isfinite() for loss, *_ in found) and len({tuple(sorted(stats)) for _, stats, _ in found}) == 1


def test_nobody_teaches_the_previous_text():
    """What is compared of a decoder is what the labels train: from ``<sos>`` on, not the previous text in front."""
    model = models(FINAL)[1].train()
    batch = training_batch()
    with captured(model) as found:
        model(**batch)
    _, mask = found["decoder"]
    assert mask.sum(1).tolist() == (batch["text_lengths"] + 1).tolist()
    previous = int(batch["text_prev_lengths"][0]) + 1
    assert not mask[0, :previous].any() and mask[0, previous] and mask[1, 0]


def test_padding_may_look_like_the_start():
    ys = torch.tensor([[9, 1, 2, 9, 9], [8, 3, 9, 1, 2]])
    real = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    expected = [[True, True, True], [False, False, True, True, True]]
    found = behind_last(9, ys, real) & real
    assert [row[: len(e)].tolist() for row, e in zip(found, expected, strict=True)] == expected
