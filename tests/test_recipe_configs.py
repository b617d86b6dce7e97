"""The YAML files of the recipes: the three trainings of a recipe must be comparable."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(p.parent for p in ROOT.glob("egs2/*/s2t1/run.sh"))
# what may differ between the gated model and its control: the classes and their gates,
CLASSES = ("encoder", "encoder_conf", "decoder", "decoder_conf", "model", "model_conf", "unused_parameters")
# and the number of steps: the control gets the same minutes
STEPS = ("num_iters_per_epoch", "max_epoch", "scheduler_conf")


def load(recipe, name):
    return yaml.safe_load((recipe / "conf" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.parent.name)
def test_the_control_is_trained_like_the_gated_model(recipe):
    gated, control = (load(recipe, f"train_s2t_{kind}.yaml") for kind in ("gated", "control"))
    # without num_iters_per_epoch an epoch is once through the data
    steps = [config.get("num_iters_per_epoch", 1) * config["max_epoch"] for config in (gated, control)]
    if recipe.parent.name != "mini":  # whose gated steps are cheaper: test_equal_compute.py counts their FLOPs
        assert steps[1] >= steps[0]
    for config in (gated, control):
        for name in (*CLASSES, *STEPS):
            config.pop(name, None)
    assert gated == control


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.parent.name)
def test_all_models_of_a_recipe_have_one_shape(recipe):
    dense, gated, control = (load(recipe, f"train_s2t_{kind}.yaml") for kind in ("dense", "gated", "control"))
    for name in CLASSES:
        if name.endswith("_conf"):
            expected = dense.get(name, {})
            assert control.get(name, {}) == expected
            assert {k: gated[name].get(k) for k in expected} == expected
    for name in ("frontend", "frontend_conf", "preprocessor", "preprocessor_conf", "normalize"):
        assert dense.get(name) == gated.get(name) == control.get(name), name
