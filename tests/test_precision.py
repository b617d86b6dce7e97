"""``ESPNET_GATED_MATMUL_PRECISION``: what the launcher makes of it."""

import os
import subprocess
import sys

import pytest
import torch

from espnet_gated import precision


def launch(value, code):
    """The last lines that ``code`` prints behind the launcher, with the variable set (ESPnet prints some before)."""
    environment = os.environ | {precision.PRECISION_VARIABLE: value}
    command = [sys.executable, "-m", "espnet_gated", "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [line.split() for line in result.stdout.splitlines()[-3:]]


def test_mixed_precision_on_a_cpu():
    """The trainer's context is bfloat16 in the products of a model's layers, and float32 where ESPnet ends it."""
    code = """
import torch
from espnet2.s2t.espnet_model import autocast
from espnet2.train import trainer
x = torch.ones(2, 2, requires_grad=True)
for use_amp in (False, True):
    with trainer.autocast(use_amp, **trainer.autocast_args):
        y = x @ x
        with autocast(False):
            z = x @ x
        print(y.dtype, z.dtype, (x @ x).dtype)
y.sum().backward()
print(x.grad.dtype, (x @ x).dtype, torch.get_float32_matmul_precision())
"""
    inside = ["torch.bfloat16", "torch.float32", "torch.bfloat16"]
    assert launch("bfloat16", code) == [inside, inside, ["torch.float32", "torch.float32", "medium"]]


@pytest.mark.parametrize(("faster", "expected"), [(True, "medium"), (False, "highest")])
def test_auto_takes_what_this_processor_is_faster_at(monkeypatch, faster, expected):
    mixed = []
    monkeypatch.setenv(precision.PRECISION_VARIABLE, "auto")
    monkeypatch.setattr(precision, "faster_in_bfloat16", lambda: faster)
    monkeypatch.setattr(precision, "_mix_on_cpu", lambda: mixed.append(True))
    before = torch.get_float32_matmul_precision()
    try:
        precision.set_precision()
        assert torch.get_float32_matmul_precision() == expected
    finally:
        torch.set_float32_matmul_precision(before)
    assert bool(mixed) is faster


def test_measuring_leaves_the_threads_alone():
    threads = torch.get_num_threads()
    assert precision.faster_in_bfloat16(width=8, tries=2) in (True, False)
    assert torch.get_num_threads() == threads


def test_an_unknown_precision_is_refused(monkeypatch):
    monkeypatch.setenv(precision.PRECISION_VARIABLE, "half")
    with pytest.raises(SystemExit, match="must be highest, high, medium, bfloat16, auto, got 'half'"):
        precision.set_precision()
