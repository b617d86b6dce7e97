"""Recipes of published corpora, on their miniatures: every stage, two recipes side by side (6 minutes on two cores).

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

from local.miniature import PAIRS

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(PAIRS)
WANTED = os.environ.get("ESPNET_GATED_RECIPES", " ".join(RECIPES)).replace(",", " ").split()
OPTIONS = {"must_c": ("--tgt_langs", "deu fra")}
SETS = {"must_c": {"tst-COMMON", "tst-HE"}}
POINTS = {0.0, 0.5}

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
            runs[recipe] = pool.submit(run, recipe, *options, timeout=1700, env=one_thread), folder
        yield runs


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
    assert {row["system"] for row in rows} == {"espnet", "dense", "control", "gated"}
    assert {row["set"] for row in rows} == SETS.get(recipe, {"test"})
    assert {row["corpus"] for row in rows} == {recipe}
    gated = [row for row in rows if row["system"] == "gated" and row["task"] == "all"]
    assert {row["sparsity_encoder"] for row in gated} == {row["sparsity_decoder"] for row in gated} == POINTS
    languages = {(row["src"], row["tgt"]) for row in rows} - {("all", "all")}
    assert languages >= set(PAIRS[recipe])
