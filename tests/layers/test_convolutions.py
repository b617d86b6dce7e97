"""Depthwise convolutions: laid out for a CPU they compute the same, forward and backward; a baseline keeps ESPnet's."""

import copy

import pytest
import torch
from torch import nn

from espnet_gated.layers import convolutions
from espnet_gated.layers.convolutions import DepthwiseConv1d, DepthwiseConv1dInTraining, lay_out_depthwise


def conv(channels=6, taps=5, **options):
    options = {"padding": taps // 2, "groups": channels} | options
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv1d(channels, channels, taps, **options).double()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("taps", [3, 5])
def test_outputs_and_gradients_are_the_same(bias, taps):
    usual = conv(taps=taps, bias=bias)
    fast = copy.deepcopy(usual)
    lay_out_depthwise(fast, DepthwiseConv1dInTraining)
    assert type(fast) is DepthwiseConv1dInTraining
    # Frames first or channels first in memory, as modules have them.
    for x in (torch.randn(3, 6, 7).double(), torch.randn(3, 7, 6).double().transpose(1, 2)):
        results = []
        for module in (usual, fast):
            module.zero_grad()
            given = x.clone().requires_grad_()
            out = module.train()(given)
            (out * torch.arange(out.numel()).reshape(out.shape)).sum().backward()
            results.append([out, given.grad, *(p.grad for p in module.parameters())])
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_evaluation_is_espnet_s_until_inference_lays_it_out(monkeypatch):
    calls = []
    usual = convolutions.depthwise_conv
    monkeypatch.setattr(convolutions, "depthwise_conv", lambda *args: calls.append(1) or usual(*args))
    model = nn.Sequential(conv(), nn.Linear(7, 7).double())
    lay_out_depthwise(model, DepthwiseConv1dInTraining)
    x = torch.randn(1, 6, 7).double()
    for training, expected in ((True, 1), (False, 1)):
        model.train(training)(x)
        assert len(calls) == expected, training
    lay_out_depthwise(model)
    assert type(model[0]) is DepthwiseConv1d
    model.eval()(x)
    assert len(calls) == 2


@pytest.mark.parametrize("options", [{"groups": 1}, {"stride": 2}, {"dilation": 2}, {"padding_mode": "reflect"}])
def test_other_convolutions_are_left_alone(options):
    module = conv(**options)
    lay_out_depthwise(module)
    assert type(module) is nn.Conv1d


def test_espnet_s_tasks_build_them():
    from tiny_tasks import build

    conf = {"output_size": 8, "attention_heads": 2, "num_blocks": 1, "cgmlp_linear_units": 12, "cgmlp_conv_kernel": 3}
    model = build("s2t", encoder="e_branchformer", encoder_conf=conf)
    kinds = {type(m) for m in model.encoder.modules() if isinstance(m, nn.Conv1d) and m.groups > 1}
    assert kinds == {DepthwiseConv1dInTraining}
