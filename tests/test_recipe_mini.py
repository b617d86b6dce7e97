"""What the scales of the mini recipe ask of s2t.sh; tests/test_recipe_smoke.py runs the smallest."""

import pytest
from planned_recipe import PlannedRecipe

ALONE = {("control", "-"), ("gated", "0.0"), ("gated", "0.0,0.5"), ("gated", "0.3,0.5"), ("gated", "0.5")}


@pytest.fixture
def planned(tmp_path):
    return PlannedRecipe(tmp_path, "mini")


def decoded(call):
    """System, sparsity and set of each decoding."""
    return {(system, sparsity, dset) for system, _, _, sparsity, _, dset in call["decodings"]}


def test_large_test_decodes_what_was_trained(planned):
    (call,) = planned.calls("--scale", "large_test")
    assert (call["gated_exp"], call["control_exp"]) == ("exp/s2t_gated", "exp/s2t_control")
    points = {*ALONE, ("gated", "0.7")}
    fixed = {("fixed", sparsity) for sparsity in ("0.0,0.5", "0.5", "0.7")}
    expected = {*points, *fixed, *((f"{system}+ctc", sparsity) for system, sparsity in points)}
    assert decoded(call) == {(*pair, "test_large") for pair in expected}


def test_the_noisy_test_decodes_what_was_trained(planned):
    (call,) = planned.calls("--scale", "noisy_test")
    assert (call["gated_exp"], call["control_exp"]) == ("exp/s2t_gated", "exp/s2t_control")
    expected = {*ALONE, *((f"{system}+ctc", sparsity) for system, sparsity in ALONE)}
    assert decoded(call) == {(*pair, "test_noisy") for pair in expected}


def test_seeds_train_anew_from_the_dense_model_and_decode_both_sets(planned):
    calls = planned.calls("--scale", "seeds")
    assert [call["seed"] for call in calls] == ["2", "3"]
    expected = {*ALONE, *((f"{system}+ctc", sparsity) for system, sparsity in ALONE)}
    for call in calls:
        assert (call["stage"], call["dense_exp"], call["test_sets"]) == ("4", "exp/s2t_dense", "test test_large")
        own = f"seeds/{call['seed']}/exp"
        assert {call[name].rpartition("/")[0] for name in ("stats_dir", "gated_exp", "control_exp")} == {own}
        assert decoded(call) == {(*pair, dset) for pair in expected for dset in ("test", "test_large")}
    folders = [line[4] for call in calls for line in call["decodings"]]
    assert len(folders) == len(set(folders))


def test_the_ablation_s_models_have_names_of_their_own_in_the_tables_of_exp(planned):
    calls = planned.calls("--scale", "ablation")
    trainings = [call for call in calls if call["stage"] != "10"]
    assert len(calls) == len(trainings) + 1  # and the report of all
    names = "features both one_mask dropped one_decoder one_both published_decoder published_both".split()
    assert sorted(call["gated_exp"] for call in trainings) == sorted(f"exp/s2t_gated_{name}" for name in names)
    for call in trainings:
        name = call["gated_exp"].removeprefix("exp/s2t_")
        assert {line[0] for line in call["decodings"]} == {name}
        assert (call["dense_exp"], call["test_sets"]) == ("exp/s2t_dense", "test")


def test_the_ablation_ends_with_the_report_whichever_stage_it_began_with(planned):
    """A further call of the recipe from there would decode again what ./run.sh has decoded."""
    calls = planned.calls("--scale", "ablation", "--stage", "7")
    assert [call["stage"] for call in calls] == ["7"] * 8 + ["10"]


def test_the_larger_model_decodes_what_the_mini_one_does(planned):
    (call,) = planned.calls("--scale", "base")
    assert (call["gated_exp"], call["control_exp"]) == ("base/exp/s2t_gated", "base/exp/s2t_control")
    points = {*ALONE, ("gated", "0.7"), ("dense", "-")}
    assert decoded(call) == {(*pair, "test") for pair in points}


def test_the_whole_recipe_decodes_all_systems(planned):
    (call,) = planned.calls()
    systems = "espnet dense control gated fixed random learned dense+ctc control+ctc gated+ctc".split()
    assert {line[0] for line in call["decodings"]} == set(systems)
    folders = [line[4] for line in call["decodings"]]
    assert len(folders) == len(set(folders))


@pytest.mark.parametrize("option", [["--seed", "7"], ["--seed=7"]])
def test_other_options_go_to_s2t(planned, option):
    (call,) = planned.calls(*option)
    assert call["seed"] == "7" and len(call["decodings"]) > 20


@pytest.mark.parametrize("scale", ["full", "smoke", "large_test", "noisy_test"])
@pytest.mark.parametrize("option", [["--local_data_opts", "--seed 1"], ["--local-data-opts=--seed 1"]])
def test_options_of_data_sh_come_to_those_of_the_recipe(planned, scale, option):
    own = {"full": "--scale full", "smoke": "--scale smoke", "large_test": "--scale full --large_test 1500"}
    own = (own | {"noisy_test": f"{own['large_test']} --noisy_test 10,20"})[scale]
    (call,) = planned.calls("--scale", scale)
    assert call["local_data_opts"] == own
    (call,) = planned.calls("--scale", scale, *option)
    assert call["local_data_opts"] == f"{own} --seed 1"


def test_options_of_trainings_come_to_those_of_the_recipe(planned):
    """They do not take the place of what makes one training another."""
    given = ("--gated_args", "--max_epoch 1", "--dense_args=--max_epoch 2", "--s2t-args", "--num_workers 0")
    for scale in ("full", "base", "ablation"):
        before, after = planned.calls("--scale", scale), planned.calls("--scale", scale, *given)
        assert len(before) == len(after)
        for name, added in (
            ("gated_args", "--max_epoch 1"),
            ("dense_args", "--max_epoch 2"),
            ("s2t_args", "--num_workers 0"),
        ):
            assert sorted(call[name] for call in after) == sorted(f"{call[name]} {added}".strip() for call in before)


@pytest.mark.parametrize(
    ("scale", "option"),
    [("seeds", "--seed"), ("seeds", "--expdir=x"), ("ablation", "--gated-name"), ("ablation", "--tag")],
)
def test_what_tells_several_trainings_apart_is_not_asked_of_the_caller(planned, scale, option):
    result = planned.run("--scale", scale, option, *([] if "=" in option else ["3"]))
    flag = option.partition("=")[0]
    assert result.returncode == 2
    assert f"--scale {scale} gives each of its trainings a {flag} of its own: leave it out" in result.stderr


@pytest.mark.parametrize(
    ("systems", "gated", "control"),
    [
        ("dense", "false", "false"),
        ("dense+ctc gated+ctc", "true", "false"),
        ("fixed", "true", "false"),
        ("random control+ctc", "true", "true"),
        ("learned", "true", "false"),
        ("control", "false", "true"),
    ],
)
def test_a_model_is_trained_for_whatever_is_decoded_with_it(planned, systems, gated, control):
    (call,) = planned.calls("--systems", systems)
    assert (call["needs_gated"], call["needs_control"]) == (gated, control)


def test_a_dense_model_from_elsewhere_is_decoded_below_exp(planned):
    """Its own experiment keeps its decodings, and ours are in our tables."""
    options = ("--expdir", "mine", "--systems", "espnet dense dense+ctc")
    (call,) = planned.calls(*options, "--dense_exp", "exp/s2t_dense")
    assert {line[1] for line in call["decodings"]} == {"exp/s2t_dense"}
    assert {line[4].rpartition("/decode")[0] for line in call["decodings"]} == {"mine/s2t_dense"}
    (call,) = planned.calls(*options, "--dense_exp", "mine/s2t_first")
    assert {line[4].rpartition("/decode")[0] for line in call["decodings"]} == {"mine/s2t_first"}
