"""Impossible options are refused by name, with the value and what is allowed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_gated.gating.config import GatingConfig, check_sparsity, parse_sparsity

BAD = {
    "unknown": ({"tempreature": 1.0}, "unknown option gating.tempreature; known are .*temperature"),
    "sparsity": ({"target_sparsity": 1.3}, r"sparsity must be in \[0, 1\), got 1.3 \(gating.target_sparsity\)"),
    "all": ({"target_sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
    "negative": ({"target_sparsity": [-0.1, 0.5]}, r"got -0.1 \(gating.target_sparsity\)"),
    "falling": ({"target_sparsity": [0.5, 0.1]}, "gating.target_sparsity must rise"),
    "three": ({"target_sparsity": [0.1, 0.2, 0.3]}, r"gating.target_sparsity takes two numbers, got \[0.1, 0.2, 0.3\]"),
    "inference": ({"inference_sparsity": 2}, r"got 2 \(gating.inference_sparsity\)"),
    "unit": ({"sparsity_unit": "parameters"}, "gating.sparsity_unit must be one of flops, modules, got 'parameters'"),
    "sampler": ({"sampler": "bernoulli"}, "gating.sampler must be one of gumbel, budget, got 'bernoulli'"),
    "budget": ({"inference_budget": "loose"}, "gating.inference_budget must be one of exact, learned"),
    "condition": ({"condition_on": ["weather"]}, "gating.condition_on must be one of .*got 'weather'"),
    "temperature": ({"temperature": [1.0, 0.0]}, "gating.temperature must be > 0"),
    "noise": ({"noise": [1.0]}, r"gating.noise takes two numbers, got \[1.0\]"),
    "one noise": ({"noise": 0.5}, "gating.noise takes two numbers, got 0.5"),
    "one temperature": ({"temperature": 1.0}, "gating.temperature takes two numbers, got 1.0"),
    "one anchor": ({"anchors": 0.5}, "gating.anchors takes a list, got 0.5"),
    "one module": ({"modules": "attn"}, "gating.modules takes a list, got 'attn'"),
    "one condition": ({"condition_on": "features"}, "gating.condition_on takes a list, got 'features'"),
    "dense_prob": ({"dense_prob": 1.5}, r"gating.dense_prob must be in \[0, 1\], got 1.5"),
    "anchor_prob": ({"anchor_prob": -1}, r"gating.anchor_prob must be in \[0, 1\], got -1"),
    "anchors": (
        {"target_sparsity": [0.0, 0.5], "anchors": [0.7]},
        "gating.anchors must be within gating.target_sparsity, 0.0 to 0.5, got 0.7",
    ),
    "prior": ({"prior": -1}, "gating.prior must be at least 0, got -1"),
    "module_prior": ({"module_prior": 0.5}, r"gating.module_prior takes \{module: number\}, got 0.5"),
    "module_priors": ({"module_prior": {"attn": "high"}}, r"gating.module_prior takes .*, got \{'attn': 'high'\}"),
    "gate_speed": ({"gate_speed": 0}, "gating.gate_speed must be > 0, got 0"),
    "freeze_steps": ({"freeze_steps": -1}, "gating.freeze_steps must be at least 0, got -1"),
    "frozen ramp": (
        {"freeze_steps": 5, "warmup_steps": 10},
        "gating.freeze_steps must be at least gating.warmup_steps, 10: .*, got 5",
    ),
    "hidden_units": ({"hidden_units": 0}, "gating.hidden_units must be at least 1, got 0"),
    "nominal_length": ({"nominal_length": 0}, "gating.nominal_length must be at least 1, got 0"),
    "nominal_memory": ({"nominal_memory": -5}, "gating.nominal_memory must be at least 1, got -5"),
}


@pytest.mark.parametrize("name", BAD)
def test_impossible_options(name):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        GatingConfig.from_yaml(options)


def test_yaml_lists_and_defaults():
    config = GatingConfig.from_yaml({"target_sparsity": [0.1, 0.7], "modules": ["attn"], "temperature": [3, 1]})
    assert config.target_range == (0.1, 0.7) and config.modules == ("attn",)
    assert config.default_sparsity == 0.0  # a model for a range of sparsities stays dense unless asked
    assert GatingConfig.from_yaml(None).default_sparsity == GatingConfig().target_sparsity
    assert GatingConfig(inference_sparsity=0.25).default_sparsity == 0.25
    assert GatingConfig(target_sparsity=0.4).target_range == (0.4, 0.4)


KNOB = {
    None: (None, None),
    "": (None, None),
    " ": (None, None),
    "0.5": (0.5, 0.5),
    0.5: (0.5, 0.5),
    0: (0.0, 0.0),
    "0.3,0.5": (0.3, 0.5),
    "0, 0.5": (0.0, 0.5),
}


@pytest.mark.parametrize("text", KNOB)
def test_the_knob(text):
    assert parse_sparsity(text) == KNOB[text]


@pytest.mark.parametrize("text", ["1.3", 1.3, "-0.1", "0.5,1", "nan", "inf", "half", "0.1,0.2,0.3", ",", "0.5,"])
def test_the_knob_refuses(text):
    with pytest.raises(ValueError, match=r"^sparsity must be .* got .*\(--sparsity\)$"):
        parse_sparsity(text)


@given(st.floats())
def test_sparsities_are_in_range_or_refused(value):
    if 0.0 <= value < 1.0:
        assert check_sparsity(value, "x") == value
    else:
        with pytest.raises(ValueError, match=r"\(x\)"):
            check_sparsity(value, "x")
