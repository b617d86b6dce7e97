"""Other layouts of a linear layer: the same numbers, the same state dict."""

import copy
import pickle

import pytest
import tiny
import torch
from torch import nn

from espnet_gated.inference.optimize import optimize_for_inference
from espnet_gated.layers import small_products
from espnet_gated.layers.small_products import PackedLinear, join_projections, lay_out_for_few_rows, pack_bfloat16


@pytest.fixture(params=[True, False], ids=["intel", "other"])
def part(monkeypatch, request):
    monkeypatch.setattr(small_products, "_LARGE", 10_000)
    monkeypatch.setattr(small_products, "_NOT_TINY", 1_000)
    monkeypatch.setattr(small_products, "on_intel", lambda: request.param)
    torch.manual_seed(0)
    attn = nn.ModuleDict({f"linear_{name}": nn.Linear(24, 24) for name in "qkv"})
    shapes = {"out": nn.Linear(24, 600), "wide": nn.Linear(24, 48), "narrow": nn.Linear(48, 24, bias=False)}
    return nn.ModuleDict(shapes | {"attn": attn}).eval()


ROWS = (1, 5, 64, 65, 300)


@torch.no_grad()
def test_float32_layouts_give_the_same_numbers_and_state(part):
    before = {name: value.clone() for name, value in part.state_dict().items()}
    plain = copy.deepcopy(part)
    lay_out_for_few_rows(part)
    assert type(part["out"]) is PackedLinear and isinstance(part["out"], nn.Linear)
    assert (type(part["narrow"]) is PackedLinear) == small_products.mkl_is_slow()
    for name in ("out", "wide", "narrow"):
        for rows in ROWS:
            x = torch.randn(rows, 1, plain[name].in_features)
            assert torch.allclose(part[name](x), plain[name](x), atol=1e-5)
        assert part[name](x[:0]).shape == (0, 1, plain[name].out_features)
    after = part.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


@torch.no_grad()
def test_changed_weights_are_packed_anew(part):
    lay_out_for_few_rows(part)
    layer, x = part["out"], torch.randn(3, 24)
    first = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), first)
    layer.weight.mul_(2.0)
    assert torch.allclose(layer(x) - layer.bias, 2.0 * (first - layer.bias), atol=1e-5)
    layer.load_state_dict({"weight": torch.zeros(600, 24), "bias": torch.ones(600)})
    assert torch.equal(layer(x), torch.ones(3, 600))
    double = copy.deepcopy(layer).double()
    assert torch.equal(double(x.double()), torch.ones(3, 600, dtype=torch.float64))


def test_a_gradient_still_comes_through(part):
    lay_out_for_few_rows(part)
    part["out"](torch.randn(2, 24)).sum().backward()
    assert part["out"].weight.grad.abs().sum() > 0


@torch.no_grad()
@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_is_packed_where_the_processor_has_it(part, supported, monkeypatch, caplog):
    if not supported:
        monkeypatch.setattr(small_products, "takes_bfloat16", lambda: False)
    elif not small_products.takes_bfloat16():
        pytest.skip("a processor without bfloat16")
    plain = copy.deepcopy(part).bfloat16()
    part.bfloat16()
    pack_bfloat16(part)
    assert all((type(m) is PackedLinear) == supported for m in part.modules() if isinstance(m, nn.Linear))
    assert ("takes no bfloat16" in caplog.text) != supported
    for rows in ROWS:
        x = torch.randn(rows, 24).bfloat16()
        assert torch.allclose(part["out"](x).float(), plain["out"](x).float(), atol=0.05)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_joined_projections_are_the_three(part, dtype):
    attn = part["attn"].to(dtype)
    before = {name: value.clone() for name, value in attn.state_dict().items()}
    lay_out_for_few_rows(attn)
    join_projections(attn)
    x = torch.randn(5, 1, 24, dtype=dtype)
    three = torch.cat([attn[f"linear_{name}"](x) for name in "qkv"], dim=-1)
    assert torch.allclose(attn.joined(x), three, atol=1e-6)
    after = attn.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert attn.joined.valid
    assert (type(attn.joined.product) is PackedLinear) == (small_products.mkl_is_slow() and dtype == torch.float32)
    attn.half()
    assert not attn.joined.valid


@torch.no_grad()
@pytest.mark.parametrize("intel", [True, False])
def test_the_output_layer_of_ctc_is_laid_out_like_the_encoder_s(intel, monkeypatch):
    monkeypatch.setattr(small_products, "_NOT_TINY", 0)
    monkeypatch.setattr(small_products, "on_intel", lambda: intel)
    model = tiny.models()[1].eval().float()
    x = torch.randn(2, 7, tiny.SIZE)
    expected = model.ctc.log_softmax(x)
    optimize_for_inference(model)
    assert (type(model.ctc.ctc_lo) is PackedLinear) == small_products.mkl_is_slow()
    assert torch.allclose(model.ctc.log_softmax(x), expected, atol=1e-5)


@torch.no_grad()
def test_joined_projections_follow_the_weights_that_are_loaded_into_their_layers(part):
    attn = part["attn"]
    lay_out_for_few_rows(attn)
    join_projections(attn)
    x = torch.randn(5, 1, 24)
    attn.joined(x)
    for scale in (0.5, 2.0):
        attn.load_state_dict({name: scale * value for name, value in attn.state_dict().items()})
        three = torch.cat(
            [nn.functional.linear(x, attn[f"linear_{n}"].weight, attn[f"linear_{n}"].bias) for n in "qkv"], -1
        )
        assert torch.allclose(attn.joined(x), three, atol=1e-5)
        assert attn.joined.valid


def test_layouts_obey_autocast_and_inference_mode(part):
    plain = copy.deepcopy(part["out"])
    lay_out_for_few_rows(part)
    x = torch.randn(3, 24)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(part["out"](x).float(), plain(x).float(), atol=0.05)
    with torch.inference_mode():
        made = copy.deepcopy(plain)
        PackedLinear.pack(made)
        assert made.weight.is_inference() and torch.allclose(made(x), plain(x), atol=1e-5)
