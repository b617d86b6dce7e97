"""The benchmark: every system measured, shares that add up, tables of what was measured."""

import json
import time
from dataclasses import replace

import pytest
import torch
import yaml
from tiny_checkpoint import make_checkpoint
from tiny_tasks import ENCODER_CONF, INPUT, build

from espnet_gated.analysis.benchmark import ROW_KEYS, Settings, load_models
from espnet_gated.analysis.benchmark_page import BATCH_HEADER, HEADER, _by_batch_size, markdown_page
from espnet_gated.analysis.memory import PeakMemory, give_back, resident_mib
from espnet_gated.analysis.module_times import Stopwatch, module_times, open_share, open_shares
from espnet_gated.analysis.shapes import dense_config, find_config, gated_config, token_list, write_models
from espnet_gated.bin import benchmark as command_line
from espnet_gated.bin.benchmark import main
from espnet_gated.data.tokenizer import SpecialTokens
from espnet_gated.inference.ctc import CTCRescorer, PrimedCTCPrefixScorer
from espnet_gated.inference.request import DecodeStats, Request
from espnet_gated.inference.speech2text import Speech2Text
from espnet_gated.model import gating_options


@pytest.fixture(scope="module", autouse=True)
def any_processor():
    """Every precision is measured, however slowly this processor does it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line, "takes_bfloat16", lambda: True)
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory, any_processor):
    folder = tmp_path_factory.mktemp("benchmark")
    config = make_checkpoint(folder, gated=True).config
    out, page = folder / "made" / "out.json", folder / "made" / "page.md"
    options = "--seconds 0.5 --beam_size 2 --steps 3 --sparsity 0.0 0.5 --runs 2 --threads 1 --batch_size 1 2"
    command = ["--arch", str(config), *options.split(), "--dtype", "float32", "int8", "bfloat16"]
    assert main([*command, "--json", str(out), "--markdown", str(page)]) == 0
    return json.loads(out.read_text(encoding="utf-8")), page.read_text(encoding="utf-8"), out


def test_every_system_has_a_row(measured):
    content = measured[0]
    found = [(r["system"], r["dtype"], r["sparsity_encoder"], r["sparsity_decoder"]) for r in content["rows"]]
    one_batch = [
        ("espnet", "float32", 0, 0),
        ("dense", "float32", 0, 0),
        *(("gated", "float32", *share) for share in ((0.5, 0), (0, 0.5), (0.5, 0.5))),
        *((system, dtype, x, x) for dtype in ("int8", "bfloat16") for system, x in (("dense", 0), ("gated", 0.5))),
    ]
    assert found == 2 * one_batch
    assert [r["batch_size"] for r in content["rows"]] == [1] * 9 + [2] * 9
    assert content["settings"]["steps"] == 3 and content["environment"]["threads"] == 1


def test_rows_hold_what_was_measured(measured):
    content = measured[0]
    for row, detail in zip(content["rows"], content["details"], strict=True):
        assert tuple(row) == ROW_KEYS
        assert row["seconds"] == 0.5 and row["beam_size"] == 2 and row["device"] == "cpu"
        assert row["encode_s"] > 0 and row["step_ms"] > 0 and row["gflops"] > 0
        for name, (low, high) in detail["spread"].items():
            assert low <= row[name] <= high
        assert 0.0 <= detail["gates_share"] < 1.0
    espnet, dense, *gated = content["rows"][:5]
    assert espnet["speedup_vs_espnet"] == dense["speedup_vs_dense"] == 1.0
    assert espnet["speedup_vs_dense"] is espnet["ideal_speedup_vs_dense"] is None
    assert dense["speedup_vs_espnet"] == pytest.approx(espnet["total_s"] / dense["total_s"])
    assert dense["ideal_speedup_vs_dense"] == pytest.approx(1.0)
    assert dense["gflops"] < espnet["gflops"]
    for row in gated:
        assert row["gflops"] < dense["gflops"] and row["ideal_speedup_vs_dense"] > 1.0
    assert content["rows"][9]["gflops"] == pytest.approx(2 * espnet["gflops"], rel=0.01)


def test_the_page_is_made_of_the_rows(measured, capsys, tmp_path):
    content, page, out = measured
    assert page == markdown_page([content])
    assert page.count("|" + "|".join(HEADER) + "|") == 2 and page.count("|" + "|".join(BATCH_HEADER) + "|") == 1
    assert page.count("|ours, gated|") == 2 * 5 + 10 and content["environment"]["machine"]["cpu"] in page
    again = tmp_path / "again.md"
    assert main(["--from_json", str(out), "--markdown", str(again)]) == 0
    assert again.read_text(encoding="utf-8") == page
    assert "ours, gated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "owsm_v9"], "owsm_v9 is neither a shape in"),
        (["--sparsity", "1.0"], "sparsity must be in [0, 1), got 1.0 (--sparsity)"),
        (["--runs", "0"], "runs must be at least 1, got 0 (--runs)"),
        (["--seconds", "0"], "seconds must be > 0, got 0.0 (--seconds)"),
        (["--seconds", "10-4"], "seconds must be SHORTEST-LONGEST, got 10-4 (--seconds)"),
        (["--seconds", "long"], "seconds must be a number or SHORTEST-LONGEST, got 'long' (--seconds)"),
        (["--ctc_weight", "1"], "ctc_weight must be in [0, 1), got 1.0 (--ctc_weight)"),
        (["--threads", "0"], "threads must be at least 1, got 0 (--threads)"),
        (["--from_json", "nowhere.json"], "nowhere.json"),
    ],
)
def test_impossible_options_are_named(options, message, capsys):
    assert main(options) == 1
    error = capsys.readouterr().err
    assert error.startswith("benchmark: ") and message in error


def test_batches_of_unequal_utterances(tmp_path, monkeypatch):
    """Spread over the range, encoded at their real lengths, and told from equal ones in the tables."""
    seen, encode = set(), Speech2Text._encode

    def noted(self, speech, context):
        seen.add(tuple(len(wave) / self.preprocessor_conf["fs"] for wave in speech))
        return encode(self, speech, context)

    monkeypatch.setattr(Speech2Text, "_encode", noted)
    config = make_checkpoint(tmp_path, gated=True).config
    options = "--seconds 0.4-0.6 0.5 --batch_size 1 3 --beam_size 2 --steps 2 --sparsity 0.5 --parts both --runs 1"
    out, page = tmp_path / "out.json", tmp_path / "page.md"
    command = ["--arch", str(config), *options.split(), "--threads", "1", "--json", str(out), "--markdown", str(page)]
    assert main(command) == 0
    assert seen >= {(0.4, 0.5, 0.6), (0.5,), (0.5, 0.5, 0.5)}
    content = json.loads(out.read_text(encoding="utf-8"))
    assert {row["seconds"] for row in content["rows"]} == {0.5}
    assert [d["seconds"] for d in content["details"]] == 6 * [[0.4, 0.6]] + 6 * [[0.5, 0.5]]
    text = page.read_text(encoding="utf-8")
    for title in ("0.4 to 0.6 s", "0.5 s"):
        assert f", {title}, beam 2, 2 steps, cpu, by batch size" in text
    for detail in content["details"]:
        del detail["seconds"]  # as files were before
    assert "0.5 s, beam 2, 2 steps, cpu, by batch size" in markdown_page([content])


def test_bfloat16_is_left_out_where_the_processor_has_none(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setattr(command_line, "takes_bfloat16", lambda: False)
    config, out = make_checkpoint(tmp_path, gated=True).config, tmp_path / "out.json"
    options = "--seconds 0.5 --steps 1 --sparsity 0 --parts both --runs 1 --threads 1 --against none"
    command = ["--arch", str(config), *options.split(), "--json", str(out), "--dtype", "bfloat16"]
    assert main([*command, "float32"]) == 0
    measured = json.loads(out.read_text(encoding="utf-8"))
    assert [r["dtype"] for r in measured["rows"]] == ["float32"]
    assert "\nLeft out, as oneDNN takes none on this processor: bfloat16.\n" in markdown_page([measured])
    assert "bfloat16 is left out" in caplog.text
    assert main(command) == 1
    assert "takes no bfloat16 on this processor (--dtype)" in capsys.readouterr().err


def test_ctc_in_every_step_and_at_the_end(tmp_path, capsys):
    config, out = make_checkpoint(tmp_path, gated=True).config, tmp_path / "out.json"
    options = "--seconds 0.5 --beam_size 2 --steps 3 --sparsity 0.5 --parts both --runs 1 --threads 1 --ctc_weight 0.3"
    assert main(["--arch", str(config), *options.split(), "--dtype", "float32", "int8", "--json", str(out)]) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [(r["system"], r["dtype"]) for r in rows] == [
        *(("espnet", "float32"), ("one_pass", "float32"), ("dense", "float32"), ("gated", "float32")),
        *(("dense", "int8"), ("gated", "int8")),
    ]
    assert rows[1]["ideal_speedup_vs_dense"] is None
    printed = capsys.readouterr().out
    assert "ours, CTC in every step" in printed and "cpu, CTC 0.3\n" in printed


def test_ctc_must_be_there(tmp_path, capsys):
    config = yaml.safe_load(make_checkpoint(tmp_path, gated=True).config.read_text(encoding="utf-8"))
    config["model_conf"] |= {"ctc_weight": 0.0}
    file = tmp_path / "no_ctc.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["--arch", str(file), "--steps", "1", "--seconds", "0.5", "--ctc_weight", "0.3"]) == 1
    assert "ctc_weight 0.3 was asked of a model without CTC (--ctc_weight)" in capsys.readouterr().err


def test_ctc_is_asked_in_every_step_or_at_the_end(tmp_path, monkeypatch):
    config = str(make_checkpoint(tmp_path, gated=True).config)
    models = load_models(Settings(config, steps=3, ctc_weight=0.3), write_models(config, tmp_path, 0, None))
    one_pass, ours = models["one_pass"][0], models["float32"][0]
    assert "ctc" in one_pass.beam_search.part_scorers and one_pass.beam_search.rescorer is None
    assert "ctc" not in ours.beam_search.part_scorers and ours.beam_search.rescorer.weight == 0.3
    assert ours.s2t_model is one_pass.s2t_model
    assert models["espnet"][0].beam_search.weights["ctc"] == 0.3
    asked = []
    for kind, name in ((PrimedCTCPrefixScorer, "score_batch"), (CTCRescorer, "score")):
        original = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *args, _f=original, _n=name: asked.append(_n) or _f(*args))
    for model, name in ((one_pass, "score_batch"), (ours, "score")):
        asked.clear()
        model.decode_batch([Request(torch.zeros(8000).numpy())])
        assert set(asked) == {name}


def test_the_budget_of_decoding_may_choose_what_skips(tmp_path, capsys, monkeypatch):
    config = str(make_checkpoint(tmp_path, gated=True).config)
    asked = []
    original = Speech2Text.set_sparsity
    monkeypatch.setattr(Speech2Text, "set_sparsity", lambda *args: asked.append(args[1:]) or original(*args))
    options = "--seconds 0.5 --beam_size 1 --steps 2 --sparsity 0.5 --runs 1 --threads 1 --parts both --against none"
    for budget in ("exact", "random"):
        asked.clear()
        assert main(["--arch", config, *options.split(), "--budget", budget]) == 0
        assert set(asked) - {(None, None)} == {(None, "open"), ((0.5, 0.5), budget)}  # (None, None): a new model
        assert (", budget exact\n" in capsys.readouterr().out) == (budget == "exact")
    with pytest.raises(ValueError, match=r"budget must be one of random, exact, learned, got 'open' \(--budget\)"):
        Settings("owsm_v3.1_base", budget="open")


def test_int8_needs_a_cpu():
    with pytest.raises(ValueError, match=r"int8 needs the CPU, got cuda \(--dtype, --device\)"):
        replace(Settings("owsm_v3.1_base"), device="cuda", dtypes=("int8",))


# -- parts -----------------------------------------------------------------------------------------
def test_the_shapes_are_owsm_s():
    assert find_config("owsm_v3.1_base").name == "owsm_v3.1_base.yaml"
    tokens = token_list()
    assert len(tokens) == len(set(tokens)) == 50_002 and tokens[0] == "<blank>"


def test_a_config_has_a_dense_and_a_gated_twin():
    config = {
        "encoder": "gated_e_branchformer",
        "encoder_conf": {"output_size": 8, "gating": {"target_sparsity": 0.5}},
        "decoder": "gated_transformer",
        "decoder_conf": {"num_blocks": 2, "gating": None},
        "model": "gated",
        "model_conf": {"ctc_weight": 0.3} | {option: None for option in gating_options()},
    }
    dense = dense_config(config)
    assert (dense["encoder"], dense["decoder"], dense["model"]) == ("e_branchformer", "transformer", "espnet")
    assert dense["encoder_conf"] == {"output_size": 8} and dense["model_conf"] == {"ctc_weight": 0.3}
    gated = gated_config(dense)
    assert (gated["encoder"], gated["decoder"], gated["model"]) == (config["encoder"], config["decoder"], "gated")


@pytest.mark.parametrize(("langs", "language"), [(("deu", "ita"), "<deu>"), (("deu", "eng"), "<eng>")])
def test_a_trained_model_is_asked_for_a_language_it_knows(langs, language, tmp_path):
    special = SpecialTokens(langs=langs, tasks=("asr",), time_resolution=30.0)
    trained = make_checkpoint(tmp_path, gated=True, special=special)
    assert write_models(str(trained.config), tmp_path, checkpoint=trained.weights).language == language


def test_open_share_is_what_the_open_modules_take():
    opened = {"encoder": {"0.attn": 0.5, "1.attn": 0.0}}
    times = {("encoder", 0, "attn"): 2.0, ("encoder", 1, "attn"): 3.0, ("decoder", 0, "self_attn"): 4.0}
    assert open_share(times, 10.0, opened) == pytest.approx(1 - (0.5 * 2 + 3) / 10)


def test_long_utterances_count_for_more_in_the_encoder():
    """A batch of unequal utterances is encoded in groups: each utterance's own gates are in its statistics."""
    stats = [
        DecodeStats(seconds, 0.1, 0.2, 3, {"encoder": {"0.attn": opened}, "decoder": {"0.src_attn": opened}}, {})
        for seconds, opened in ((3.0, 1.0), (1.0, 0.0))
    ]
    assert open_shares(stats) == {"encoder": {"0.attn": 0.75}, "decoder": {"0.src_attn": 0.5}}


def test_the_stopwatch_counts_by_key():
    watch = Stopwatch("cpu")
    nap = watch.timed(time.sleep, lambda seconds: seconds)
    nap(0.01)
    nap(0.01)
    assert watch.seconds.keys() == {0.01} and watch.seconds[0.01] >= 0.02


@pytest.mark.skipif(resident_mib("cpu") is None, reason="the system does not tell its memory")
def test_what_was_freed_does_not_hide_what_is_loaded():
    blocks = [bytearray(b"x" * 2**16) for _ in range(2048)]
    last = blocks.pop()  # behind all others: the heap cannot shrink from its end
    high = resident_mib("cpu")
    del blocks
    give_back()
    assert resident_mib("cpu") < high - 64 and last


@pytest.mark.skipif(resident_mib("cpu") is None, reason="the system does not tell its memory")
def test_the_peak_is_seen():
    with PeakMemory("cpu") as memory:
        block = torch.ones(64 * 2**18)  # 64 MiB
        del block
    assert 50 < memory.above_mib < 200


def test_no_ideal_where_a_closed_module_was_not_timed():
    for last, expected in ((0.0, None), (1.0, 0.8)):
        found = open_share({("encoder", 0, "attn"): 2.0}, 10.0, {"encoder": {"0.attn": 0.0, "1.other": last}})
        assert found is expected if expected is None else found == pytest.approx(expected)


@pytest.mark.parametrize("encoder", ENCODER_CONF)
def test_the_modules_of_all_encoders_are_timed(encoder):
    model = build("asr", encoder=encoder).eval()
    model.set_sparsity(0.0, 0.0)
    with module_times(model, "cpu") as times:
        model.encode(torch.randn(1, 20, INPUT, dtype=torch.float64), torch.tensor([20]))
    names = {("encoder", *name) for name in model.encoder.gate_predictor.names}
    assert names <= set(times) and all(times[name] > 0 for name in names)


def test_gains_of_batches_are_against_one_by_one():
    def row(size, seconds):
        return {"system": "dense", "dtype": "float32", "sparsity_encoder": 0, "sparsity_decoder": 0} | {
            "batch_size": size,
            "total_s": seconds,
        }

    assert [r[-1] for r in _by_batch_size([row(8, 4.0), row(1, 1.0)])] == ["1.00", "2.00"]
    assert [r[-1] for r in _by_batch_size([row(8, 4.0), row(16, 4.0)])] == ["-", "-"]
