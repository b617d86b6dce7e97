"""The pages of docs/, one for each thing a user wants: their commands run, in this order, on seconds of noise."""

import re
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.tasks.s2t import S2TTask
from tiny_project import CONFIG, ROOT, commands, gated, make_data, run, with_data, write_config

from espnet_gated import Speech2Text

PAGES = ("swap_names", "stock_espnet", "fine_tune_owsm", "choose_a_sparsity", "read_the_report", "write_a_recipe")
OWN_TESTS = {"add_an_encoder", "contexts"}  # run by test_docs_<page>.py
NOT_FOR_USERS = {"design", "experiments", "results_mini", "benchmarks", "benchmarks_gpu", "benchmarks_ctc", "corpora"}
BLOCK = re.compile(r"```(\w*)\n(.*?)```", flags=re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks of a page."""
    return BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))


def make_public_model(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """A model as the hub has it."""
    folder.mkdir(parents=True)
    left_by_training = {"version": "202511", "distributed": False, "train_shape_file": ["theirs"]}
    write_config(folder / "config.yaml", CONFIG | left_by_training | {"bpemodel": "bpe.model"})
    (folder / "bpe.model").write_bytes(b"pieces")
    torch.save(weights, folder / "valid.ave.pth")
    files = {"s2t_model_file": "valid.ave.pth"}
    write_config(folder / "meta.yaml", {"files": files, "yaml_files": {"s2t_train_config": "config.yaml"}})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's recipe: data, configurations, a dense model."""
    folder = tmp_path_factory.mktemp("user")
    make_data(folder)
    swapped, levels = (yaml.safe_load(text) for language, text in blocks("swap_names") if language == "yaml")
    write_config(folder / "conf" / "train_gated.yaml", with_data({**CONFIG, **swapped}))
    assert all(levels[f"{stack}_conf"]["gating"]["level"] for stack in ("encoder", "decoder"))
    write_config(folder / "conf" / "train_ez.yaml", gated(CONFIG))
    options = S2TTask.get_default_config() | CONFIG
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense = S2TTask.build_model(Namespace(**options)).state_dict()
    (folder / "exp" / "dense").mkdir(parents=True)
    torch.save(dense, folder / "exp" / "dense" / "valid.acc.best.pth")
    make_public_model(folder / "downloads" / "owsm_v3.1_ebf_base", dense)
    (folder / "data" / "token_list" / "bpe").mkdir(parents=True)
    (folder / "data" / "token_list" / "bpe" / "bpe.model").write_bytes(b"pieces")
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    for language, text in blocks(page):
        if language == "bash":
            for command in commands(text):
                with monkeypatch.context() as environment:
                    while "=" in command.split()[0]:
                        assignment, command = command.split(maxsplit=1)
                        environment.setenv(*assignment.split("=", 1))
                    run(command)
        elif language == "python":
            exec(compile(text, f"docs/{page}.md", "exec"), {})


def test_what_the_pages_have_made(project: Path) -> None:
    """The commands did what the pages say; runs after them."""
    if not (project / "exp" / "report").is_dir():
        pytest.skip("the pages did not run")
    for decoded in ("exp/gated/decode/1best_recog/text", "exp/stock/decode/1best_recog/text"):
        assert len((project / decoded).read_text(encoding="utf-8").splitlines()) == 4
    assert "<html" in (project / "exp" / "report" / "report.html").read_text(encoding="utf-8")
    for trained in ("exp/gated", "exp/stock", "exp/ez/train"):
        model = Speech2Text.from_pretrained(str(project / trained), beam_size=1)
        assert model.is_gated and set(model.predictors()) == {"encoder", "decoder"}
    with zipfile.ZipFile(project / "exp/stock/packed.zip") as packed:
        assert {"data/token_list/bpe/bpe.model", "exp/stock/config.yaml"} <= set(packed.namelist())


def test_every_page_is_run_by_a_test() -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages == set(PAGES) | OWN_TESTS | NOT_FOR_USERS & pages
    for page in OWN_TESTS:
        assert (ROOT / "tests" / f"test_docs_{page}.py").is_file()


def test_levels_of_the_page_make_a_model() -> None:
    _, levels = (yaml.safe_load(text) for language, text in blocks("swap_names") if language == "yaml")
    config = gated(CONFIG)
    for part in ("encoder_conf", "decoder_conf"):
        config[part] = {**config[part], **levels[part]}
    model = S2TTask.build_model(Namespace(**S2TTask.get_default_config() | config))
    assert all(predictor.is_local for predictor in model.gate_predictors().values())
    assert model.encoder.gate_predictor.config.hierarchy


def test_links_between_pages_are_there() -> None:
    for path in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
