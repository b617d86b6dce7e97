"""``optim: muon``: which parameters go where, what the halves do, and ESPnet's trainer around it."""

import argparse

import pytest
import torch
from espnet2.schedulers.piecewise_linear_warmup_lr import PiecewiseLinearWarmupLR
from espnet2.tasks.s2t import S2TTask
from tiny import models, training_batch
from torch.optim import _muon as muon_of_torch

from espnet_gated import optim
from espnet_gated.optim import MuonAdam, is_hidden_matrix, orthogonalize, orthogonalize_all
from espnet_gated.registry import register


@pytest.fixture(scope="module", autouse=True)
def registered():
    register()


def gated_model():
    return models({"target_sparsity": 0.5})[1].float().train()


def optimizer_of(model, **conf):
    """As ESPnet builds it from YAML."""
    args = argparse.Namespace(optim="muon", optim_conf=conf, sharded_ddp=False, exclude_weight_decay=False)
    (optimizer,) = S2TTask.build_optimizers(args, model)
    return optimizer


def step(model, optimizer, seed=0):
    torch.manual_seed(seed)
    batch = {k: v.float() if v.is_floating_point() else v for k, v in training_batch().items()}
    optimizer.zero_grad()
    model(**batch)[0].backward()
    optimizer.step()


def test_hidden_matrices_alone_are_muon_s():
    model = gated_model()
    muon, adam = optimizer_of(model).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    in_muon, in_adam = ({names[id(p)] for p in group["params"]} for group in (muon, adam))
    assert in_muon | in_adam == set(names.values())
    assert not in_muon & in_adam
    assert "encoder.encoders.0.attn.linear_q.weight" in in_muon
    assert "decoder.decoders.1.feed_forward.w_2.weight" in in_muon
    for name in ("decoder.embed.0.weight", "decoder.output_layer.weight", "ctc.ctc_lo.weight"):
        assert name in in_adam
    assert not any("gate_predictor" in name for name in in_muon)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("decoders.0.src_attn.linear_k.weight", (8, 8), True),  # a stack looked at by itself
        ("encoder.encoders.0.self_attn.pos_bias_u", (2, 4), False),
        ("encoder.encoders.0.norm.weight", (8,), False),
        ("encoder.encoders.0.depthwise_conv.weight", (8, 1, 3), False),
    ],
)
def test_what_a_hidden_matrix_is(name, shape, expected):
    assert is_hidden_matrix(name, torch.zeros(shape)) is expected


@pytest.mark.parametrize("shape", [(48, 48), (24, 80), (80, 24)])
def test_orthogonalize(shape):
    """Singular vectors stay, singular values come near one; torch's own, in bfloat16, says about the same."""
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = left @ torch.diag(torch.linspace(0.05, 3.0, min(shape))) @ right
    result = orthogonalize(matrix)
    turned = left.T @ result @ right.T
    values = turned.diagonal()
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    torch.testing.assert_close(turned, torch.diag(values), rtol=0, atol=1e-4)
    in_bfloat16 = muon_of_torch._zeropower_via_newtonschulz(matrix, (3.4445, -4.775, 2.0315), 5, 1e-7)
    assert float((in_bfloat16.float() - result).norm() / result.norm()) < 0.03


@pytest.mark.parametrize("shape", [(128, 128), (128, 320), (240, 128)])
def test_updates_are_as_large_as_torch_s(shape):
    torch.manual_seed(0)
    momentum = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    theirs = muon_of_torch._zeropower_via_newtonschulz(momentum, (3.4445, -4.775, 2.0315), 5, 1e-7).float()
    ours = orthogonalize(momentum)
    assert float(ours.norm() / theirs.norm()) == pytest.approx(1.0, abs=0.06)
    assert float((ours * theirs).sum() / ours.norm() / theirs.norm()) > 0.93


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_matrices_of_low_rank_do_not_grow_by_rounding(monkeypatch, rank):
    """A singular value next to 1 must not leave the range of the polynomial in bfloat16."""
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    torch.manual_seed(0)
    for _ in range(20):
        result = orthogonalize(torch.randn(64, rank) @ torch.randn(rank, 96))
        assert result.dtype == torch.bfloat16
        assert float(torch.linalg.matrix_norm(result.float(), 2)) < 1.4
    assert not orthogonalize(torch.zeros(4, 8)).any()


@pytest.mark.parametrize("precision", ["medium", "highest"])
def test_matrices_in_company_are_as_alone(monkeypatch, precision):
    """Lying and standing matrices of one shape share a stack, up to a size; none gets another's result."""
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    monkeypatch.setattr(optim, "_LARGEST_STACK", dict.fromkeys(optim._LARGEST_STACK, 2 * 24 * 80))
    seen = []
    monkeypatch.setattr(optim, "orthogonalize", lambda stack: seen.append(len(stack)) or orthogonalize(stack))
    torch.manual_seed(0)
    matrices = [torch.randn(shape) for shape in [(24, 80), (48, 48), (80, 24), (24, 80), (48, 48), (200, 30)]]
    results = orthogonalize_all(matrices)
    for matrix, result in zip(matrices, results, strict=True):
        torch.testing.assert_close(
            result, orthogonalize(matrix), rtol=0.05, atol=0.02 if precision == "medium" else 1e-5
        )
    assert sorted(seen) == [1, 1, 1, 1, 2]
    assert orthogonalize_all([]) == []


def test_bfloat16_where_products_may_be(monkeypatch):
    matrix = torch.randn(3, 24, 80, generator=torch.Generator().manual_seed(0))
    exact = orthogonalize(matrix)
    assert exact.dtype == torch.float32
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    rounded = orthogonalize(matrix)
    assert rounded.dtype == torch.bfloat16
    assert float((rounded - exact).norm() / exact.norm()) < 0.03


def test_updates_are_torch_s_own(monkeypatch):
    """The same gradients through torch's two optimizers by hand, its bfloat16 products and closed modules apart."""
    monkeypatch.setattr(muon_of_torch, "_zeropower_via_newtonschulz", lambda matrix, *_: orthogonalize(matrix))
    ours, by_hand = gated_model(), gated_model()
    by_hand.load_state_dict(ours.state_dict())
    optimizer = optimizer_of(ours, lr=0.01, momentum=0.9, betas=[0.8, 0.9], weight_decay=0.1)
    hidden = {name for name, p in by_hand.named_parameters() if is_hidden_matrix(name, p)}
    matrices = [p for name, p in by_hand.named_parameters() if name in hidden]
    others = [p for name, p in by_hand.named_parameters() if name not in hidden]
    muon = torch.optim.Muon(matrices, lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
    for seed in range(2):
        step(ours, optimizer, seed)
        for (name, mine), theirs in zip(ours.named_parameters(), by_hand.parameters(), strict=True):
            closed = mine.grad is None or (name in hidden and not mine.grad.any())  # torch's would go on moving it
            theirs.grad = None if closed else mine.grad.clone()
        muon.step()
        adam.step()
    for (name, mine), theirs in zip(ours.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_a_closed_module_stays_as_it_is():
    """A gate of 0 for a whole batch gives gradients of 0: old momentum must not go on moving the module."""
    model = gated_model()
    optimizer = optimizer_of(model, lr=0.01)
    for _ in range(3):
        step(model, optimizer)
    muon = optimizer.param_groups[0]["params"]
    closed, opened = muon[0], muon[1]
    before = closed.detach().clone(), opened.detach().clone()
    closed.grad.zero_()
    optimizer.step()
    assert torch.equal(closed, before[0]) and not torch.equal(opened, before[1])
    closed.grad = torch.ones_like(closed)
    optimizer.step()
    assert not torch.equal(closed, before[0])


def test_a_scheduler_sets_the_pace_of_both():
    model = gated_model()
    optimizer = optimizer_of(model, lr=1.0)
    scheduler = PiecewiseLinearWarmupLR(optimizer, warmup_steps_list=[0, 10, 20], warmup_lr_list=[0.0, 1.0, 0.0])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(model, optimizer)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    scheduler.step()
    rates = {group["lr"] for group in optimizer.param_groups}
    assert len(rates) == 1
    assert 0.0 < rates.pop() < 1.0
    step(model, optimizer)
    assert sum(not torch.equal(before[name], p) for name, p in model.named_parameters()) > 20


def test_training_goes_on_where_it_stopped():
    through, stopped = gated_model(), gated_model()
    stopped.load_state_dict(through.state_dict())
    optimizers = [optimizer_of(m, lr=0.01) for m in (through, stopped)]
    for model, optimizer in zip((through, stopped), optimizers, strict=True):
        step(model, optimizer)
    resumed = gated_model()
    resumed.load_state_dict(stopped.state_dict())
    again = optimizer_of(resumed, lr=0.5)
    again.load_state_dict(optimizers[1].state_dict())
    step(through, optimizers[0], seed=1)
    step(resumed, again, seed=1)
    for mine, theirs in zip(through.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="optim: muon needs matrices in layers"):
        MuonAdam(torch.nn.Linear(4, 4).named_parameters())


def test_weight_decay_leaves_nothing_out():
    """ESPnet's option would be ignored."""
    args = argparse.Namespace(optim="muon", optim_conf={"lr": 0.1}, exclude_weight_decay=True)
    with pytest.raises(ValueError, match="exclude_weight_decay: true is not known to optim: muon"):
        S2TTask.build_optimizers(args, gated_model())


def test_other_optimizers_are_espnet_s():
    args = argparse.Namespace(optim="adam", optim_conf={"lr": 0.1}, sharded_ddp=False, exclude_weight_decay=False)
    assert isinstance(S2TTask.build_optimizers(args, gated_model())[0], torch.optim.Adam)
