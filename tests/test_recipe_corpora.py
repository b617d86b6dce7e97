"""Recipes of published corpora, on their miniatures: every stage, two recipes side by side.

ESPNET_GATED_RECIPES names those whose stages run, if not all (``europarl_st fleurs``; ``none``)::

    ESPNET_GATED_RECIPES=must_c python -m pytest tests/test_recipe_corpora.py
"""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from planned_recipe import PlannedRecipe

from local.miniature import PAIRS

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(PAIRS)
WANTED = os.environ.get("ESPNET_GATED_RECIPES", " ".join(RECIPES)).replace(",", " ").split()
SYSTEMS = {"europarl_st": "espnet dense control gated"}  # one recipe runs all, the others all but the slowest
USUAL_SYSTEMS = "dense control gated"
OPTIONS = {"must_c": ("--tgt_langs", "deu fra")}
SETS = {"must_c": {"tst-COMMON", "tst-HE"}}
NONE, ENCODER, DECODER, BOTH = (0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)
POINTS = {"europarl_st": {NONE, ENCODER, DECODER, BOTH}}

each_recipe = pytest.mark.parametrize("recipe", RECIPES)


def run(recipe, *options, timeout=120, env=None):
    command = [ROOT / "egs2" / recipe / "s2t1" / "run.sh", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)


@pytest.fixture(scope="module")
def smoke_runs(tmp_path_factory):
    """Of each wanted recipe the run at smoke scale, as a future, and its folder.

    Two at a time, of one thread each: most of their time is imports.
    """
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ThreadPoolExecutor(max_workers=2) as pool:
        runs = {}
        for recipe in (name for name in RECIPES if name in WANTED):
            folder = tmp_path_factory.mktemp(recipe)
            options = ("--scale", "smoke", "--smoke_dir", folder, *OPTIONS.get(recipe, ()))
            options = (*options, "--systems", SYSTEMS.get(recipe, USUAL_SYSTEMS))
            runs[recipe] = pool.submit(run, recipe, *options, timeout=1700, env=one_thread), folder
        yield runs


@pytest.mark.parametrize("recipe", [*RECIPES, "asterisk"])
def test_options_of_data_sh_come_to_those_of_the_recipe(tmp_path, recipe):
    planned = PlannedRecipe(tmp_path, recipe)
    options = ("--mini_model", "none") if recipe == "asterisk" else ("--corpus_dir", "/data", *OPTIONS.get(recipe, ()))
    (before,) = planned.calls(*options)
    (after,) = planned.calls(*options, "--local_data_opts", "--st_pairs all-eng")
    assert len(before["local_data_opts"].split()) > 1
    assert after["local_data_opts"] == f"{before['local_data_opts']} --st_pairs all-eng"


@each_recipe
def test_a_recipe_has_the_template_s_parts(recipe):
    place = ROOT / "egs2" / recipe / "s2t1"
    for name in ("s2t.sh", "path.sh", "utils"):
        assert (place / name).resolve() == ROOT / "egs2" / "TEMPLATE" / "s2t1" / name
    for file in (place / "run.sh", place / "local" / "data.sh"):
        assert os.access(file, os.X_OK), file
    assert "Run on real data" in (place / "README.md").read_text(encoding="utf-8")
    for kind in ("dense", "gated", "control"):
        assert yaml.safe_load((place / "conf" / f"train_s2t_{kind}.yaml").read_text(encoding="utf-8"))["encoder_conf"]


@each_recipe
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--scale", "huge"], "--scale must be full or smoke, got 'huge'"),
        (["--scale"], "--scale needs a value"),
        (["--init_model", "nowhere"], "nowhere is no folder, and tags need"),
        (["--systems", "dense sparse"], "unknown system 'sparse'"),
    ],
)
def test_a_recipe_refuses_before_it_starts(recipe, tmp_path, args, message):
    places = [f"--{name}dir={tmp_path}/{name}" for name in ("data", "dump", "exp")]
    result = run(recipe, *places, *args)
    assert result.returncode != 0
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_the_settings_of_europarl_st(tmp_path):
    result = run("europarl_st", f"--smoke_dir={tmp_path}", "--scale", "smoke", "--setting", "both")
    assert result.returncode != 0
    assert "--setting must be one or published, got 'both'" in result.stderr


@pytest.fixture
def planned(tmp_path):
    return PlannedRecipe(tmp_path, "europarl_st")


def test_the_published_setting_trains_a_model_for_each_point(planned):
    calls = planned.calls("--setting", "published", "--tag", "mine", "--expdir=exp", "--gated_args", "--max_epoch 3")
    one, *singles, last = calls
    target = "--encoder_conf gating.target_sparsity={} --decoder_conf gating.target_sparsity={}"
    assert one["gated_args"] == f"{target.format(*['[0.0,0.9]'] * 2)} --max_epoch 3"
    assert (one["stage"], one["stop_stage"], last["stage"]) == ("1", "10", "10")
    points = [d[3] for d in one["decodings"] if d[0] == "gated"]
    assert len(points) == len(set(points)) == 28
    assert len(singles) == 27
    for call in singles:
        ((system, gated_exp, _, point, *_),) = call["decodings"]
        assert system == "gated_single"
        assert gated_exp == f"exp/s2t_gated_mine_target_{point.replace(',', '_')}"
        assert (call["stage"], call["stop_stage"], call["dense_exp"]) == ("6", "8", "exp/s2t_dense_mine")
        encoder, decoder = point.split(",")
        assert call["gated_args"] == f"{one['gated_args']} {target.format(encoder, decoder)}"
        assert os.readlink(planned.place / call["stats_dir"]) == "s2t_stats_mine"
    folders = [d[4] for call in calls[:-1] for d in call["decodings"]]
    assert len(folders) == len(set(folders))


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        (["--stop_stage", "5"], []),
        (["--stop_stage", "7"], [("6", "7")]),
        (["--stage=8"], [("8", "8")]),
        (["--stage", "9"], []),
    ],
)
def test_the_published_setting_obeys_the_stages_asked_for(planned, options, stages):
    calls = planned.calls("--setting", "published", "--dense_exp", "elsewhere", *options)
    assert list(dict.fromkeys((call["stage"], call["stop_stage"]) for call in calls[1:-1])) == stages
    assert {call["dense_exp"] for call in calls} == {"elsewhere"}


@pytest.mark.recipe
@pytest.mark.timeout(1800)
@each_recipe
def test_every_stage_at_smoke_scale(recipe, smoke_runs):
    if recipe not in smoke_runs:
        pytest.skip(f"ESPNET_GATED_RECIPES does not name {recipe}")
    future, folder = smoke_runs[recipe]
    result = future.result()
    assert result.returncode == 0, f"{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    rows = json.loads((folder / "exp" / "results.json").read_text(encoding="utf-8"))
    assert {row["system"] for row in rows} == set(SYSTEMS.get(recipe, USUAL_SYSTEMS).split())
    assert {row["set"] for row in rows} == SETS.get(recipe, {"test"})
    assert {row["corpus"] for row in rows} == {recipe}
    gated = [row for row in rows if row["system"] == "gated" and row["task"] == "all"]
    points = POINTS.get(recipe, {NONE, BOTH})
    assert {(row["sparsity_encoder"], row["sparsity_decoder"]) for row in gated} == points
    text = (folder / "exp" / "RESULTS.md").read_text(encoding="utf-8")
    assert ("### gated: WER (%) and BLEU by what is pruned" in text) == (ENCODER in points)
    languages = {(row["src"], row["tgt"]) for row in rows} - {("all", "all")}
    assert languages >= set(PAIRS[recipe])
