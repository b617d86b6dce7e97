"""The decoding command: what it writes, and one clear line for bad input with nothing half-written."""

import json
import sys

import pytest
import soundfile
import torch
import yaml
from sentencepiece import SentencePieceProcessor
from tiny_checkpoint import FS, make_checkpoint, make_data_dir, wave

from espnet_gated.__main__ import main as launch
from espnet_gated.analysis.speed import speed_row
from espnet_gated.bin import s2t_inference
from espnet_gated.inference import calibration
from espnet_gated.inference.audio import Item, every_nth

FILES = {"text", "token", "token_int", "score", "text_nospecial"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return make_data_dir(tmp_path_factory.mktemp("data") / "test")


def arguments(checkpoint, out, **options):
    options = {
        "s2t_train_config": checkpoint.config,
        "s2t_model_file": checkpoint.weights,
        "bpemodel": checkpoint.bpemodel,
        "output_dir": out,
        "beam_size": 2,
        "dtype": "float64",
        "log_level": "WARNING",
    } | options
    return [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]


def run(checkpoint, out, **options):
    return s2t_inference.main(arguments(checkpoint, out, **options))


def read(path):
    return dict(line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())


def stats_of(out):
    return {row["utt_id"]: row for row in map(json.loads, (out / "decode_stats.jsonl").open(encoding="utf-8"))}


def test_a_decoding_directory(gated_checkpoint, data_dir, tmp_path):
    out = tmp_path / "decode"
    options = {"sparsity": "0.3,0.6", "nbest": 2, "measure_flops": "true", "flops_every": 2, "system": "gated_30_60"}
    assert run(gated_checkpoint, out, data_dir=data_dir, **options) == 0
    assert (
        {f.name for f in (out / "1best_recog").iterdir()} == FILES == {f.name for f in (out / "2best_recog").iterdir()}
    )
    tokens = read(out / "1best_recog" / "token")
    assert tokens["a-asr"].startswith("<deu> <asr> <notimestamps>") and tokens["b-st_eng"].startswith("<ita> <st_eng>")
    stats = stats_of(out)
    assert list(stats) == ["a-asr", "b-st_eng", "c-asr"]
    for row in stats.values():
        assert row["skipped_encoder"] >= 0.3 - 1e-5 and row["skipped_decoder"] >= 0.6 - 1e-5
        assert (row["sparsity_encoder"], row["sparsity_decoder"], row["engine"]) == (0.3, 0.6, "gated")
        assert set(row["gates_encoder"].values()) <= {0.0, 1.0}
    assert [row["gflops"] is not None for row in stats.values()] == [True, True, False]  # each second of a task
    assert stats["b-st_eng"]["lang"] == "ita" and stats["b-st_eng"]["task"] == "st_eng"
    assert stats["a-asr"]["seconds"] == pytest.approx(0.5)
    meta = json.loads((out / "decode_meta.json").read_text(encoding="utf-8"))
    assert meta["system"] == "gated_30_60" and meta["checkpoint"] == str(gated_checkpoint.weights)
    assert meta["budget"] == "exact"  # the model's default, as nobody asked for another


def test_flops_are_counted_for_every_task_where_tasks_take_turns():
    items = [Item(f"{n}-{task}", "<deu>", task, "") for n in range(5) for task in ("<asr>", "<st_eng>")]
    counted = every_nth(items, 2)
    assert counted == {f"{n}-{task}" for n in (0, 2, 4) for task in ("<asr>", "<st_eng>")}


def test_batches_write_what_single_utterances_write(gated_checkpoint, data_dir, tmp_path):
    outs = [tmp_path / f"batch_{size}" for size in (1, 3)]
    for out, size in zip(outs, (1, 3), strict=True):
        assert run(gated_checkpoint, out, data_dir=data_dir, sparsity=0.5, batch_size=size) == 0
    assert read(outs[0] / "1best_recog" / "token") == read(outs[1] / "1best_recog" / "token")
    tables = [{utt: (r["gates_encoder"], r["gates_decoder"]) for utt, r in stats_of(out).items()} for out in outs]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(("engine", "rest"), [("gated", [["b-asr", "d-asr"]]), ("espnet", [["b-asr"], ["d-asr"]])])
def test_what_is_timed_is_decoded_alone(dense_checkpoint, tmp_path, monkeypatch, engine, rest):
    data = make_data_dir(tmp_path / "data", {f"{name}-asr": 0.5 for name in "abcd"})
    batches = []
    real = s2t_inference._decode_batch

    def seen(model, items, requests):
        batches.append([item.utt_id for item in items])
        return real(model, items, requests)

    monkeypatch.setattr(s2t_inference, "_decode_batch", seen)
    usual, out = tmp_path / "usual", tmp_path / "out"
    size = 4 if engine == "gated" else 1
    assert run(dense_checkpoint, usual, data_dir=data, engine=engine) == 0
    batches.clear()
    options = {"data_dir": data, "engine": engine, "batch_size": size, "latency_every": 2}
    assert run(dense_checkpoint, out, **options) == 0
    assert batches == [["a-asr"], ["a-asr"], ["c-asr"], *rest]  # the first warms up
    assert read(out / "1best_recog" / "token") == read(usual / "1best_recog" / "token")
    for name in ("latency_s", "encode_s", "search_s"):
        timed = {utt for utt, row in stats_of(out).items() if row[name] is not None}
        assert timed == {"a-asr", "c-asr"}
    meta = json.loads((out / "decode_meta.json").read_text(encoding="utf-8"))
    assert (meta["batch_size"], meta["latency_every"], meta["untimed_batch_size"]) == (1, 2, size)
    assert [row[2] for row in map(speed_row, (usual, out))] == ["4", "2"]


def test_both_engines_write_the_same_on_dense_weights(dense_checkpoint, data_dir, tmp_path):
    outs = [tmp_path / engine for engine in ("espnet", "gated")]
    for out in outs:
        assert run(dense_checkpoint, out, data_dir=data_dir, engine=out.name, measure_flops="true") == 0
    for name in FILES - {"score"}:
        assert read(outs[0] / "1best_recog" / name) == read(outs[1] / "1best_recog" / name)
    theirs, ours = (stats_of(out)["a-asr"] for out in outs)
    assert ours["gflops_encoder"] == pytest.approx(theirs["gflops_encoder"], rel=0.01)
    assert ours["gflops_decoder"] < theirs["gflops_decoder"]


def test_stock_espnet_decodes_the_gated_checkpoint(gated_checkpoint, data_dir, tmp_path, monkeypatch):
    """Through the launcher, with ESPnet's own search; the sparsity comes from the environment."""
    monkeypatch.setattr("sys.argv", list(sys.argv))
    monkeypatch.setenv("ESPNET_GATED_SPARSITY", "0.4")
    key = tmp_path / "one"
    key.write_text("a-asr\n", encoding="utf-8")
    common = {"lang_sym": "<deu>", "task_sym": "<asr>", "key_file": key, "ngpu": 0, "num_workers": 0}
    triple = f"{data_dir / 'wav.scp'},speech,sound"
    stock = arguments(gated_checkpoint, tmp_path / "stock", data_path_and_name_and_type=triple, **common)
    launch(["-m", "espnet2.bin.s2t_inference", *stock])
    monkeypatch.delenv("ESPNET_GATED_SPARSITY")
    assert run(gated_checkpoint, tmp_path / "ours", data_path_and_name_and_type=triple, sparsity=0.4, **common) == 0
    for name in ("text", "token"):
        expected = read(tmp_path / "stock" / "1best_recog" / name)
        assert list(expected) == ["a-asr"]
        assert read(tmp_path / "ours" / "1best_recog" / name) == expected


def test_the_likelihood_of_the_true_words(gated_checkpoint, data_dir, tmp_path, capsys):
    pieces = SentencePieceProcessor(str(gated_checkpoint.bpemodel))
    gated_tokens = pieces.encode_as_pieces("ab cab")
    texts = {"a-asr": "<deu><asr>", "b-st_eng": "<ita><st_eng>", "c-asr": "<deu><asr>"}
    langs = read(data_dir / "utt2lang")
    lines = [f"{utt} <{langs[utt].strip()}>{symbols[5:]}<notimestamps> ab cab\n" for utt, symbols in texts.items()]
    (data_dir / "text").write_text("".join(lines), encoding="utf-8")
    options = {"data_dir": data_dir, "sparsity": 0.5, "measure_nll": "true"}
    assert run(gated_checkpoint, tmp_path / "decode", **options) == 0
    for row in stats_of(tmp_path / "decode").values():
        assert row["nll"] > 0 and row["nll_tokens"] == len(gated_tokens) + 1
    lines[1] = lines[1].replace("<st_eng>", "<asr>")
    (data_dir / "text").write_text("".join(lines), encoding="utf-8")
    assert run(gated_checkpoint, tmp_path / "other", **options) == 1
    assert f"{data_dir / 'text'}: utterance b-st_eng: the text begins with " in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    (data_dir / "text").unlink()


def test_a_missing_text_is_named(gated_checkpoint, data_dir, tmp_path, capsys):
    (data_dir / "text").unlink(missing_ok=True)
    assert run(gated_checkpoint, tmp_path / "decode", data_dir=data_dir, measure_nll="true") == 1
    assert f"{data_dir / 'text'}: no such file" in capsys.readouterr().err
    (data_dir / "text").write_text("a-asr ab\n", encoding="utf-8")
    assert run(gated_checkpoint, tmp_path / "decode", data_dir=data_dir, measure_nll="true") == 1
    assert f"{data_dir / 'text'}: no text of utterance b-st_eng (--measure_nll)" in capsys.readouterr().err
    (data_dir / "text").unlink()
    assert not (tmp_path / "decode").exists()


# -- bad input ----------------------------------------------------------------------------------------
@pytest.fixture
def own_data(tmp_path):
    """A data directory to spoil."""
    return make_data_dir(tmp_path / "data")


def assert_refused(capsys, out, code, *words):
    """A non-zero exit, one line with these words, no traceback, and no trace of a directory."""
    assert code == 1
    complaints = [line for line in capsys.readouterr().err.splitlines() if line.startswith("s2t_inference: ")]
    assert len(complaints) == 1, complaints
    for word in words:
        assert str(word) in complaints[0]
    assert not [p for p in out.parent.iterdir() if out.name in p.name]


@pytest.mark.parametrize("sparsity", ["1.3", "-0.1", "0.2,1.0", "half"])
def test_impossible_sparsity(gated_checkpoint, own_data, tmp_path, capsys, sparsity):
    out = tmp_path / "decode"
    code = run(gated_checkpoint, out, data_dir=own_data, sparsity=sparsity)
    assert_refused(capsys, out, code, "sparsity must be", "--sparsity", sparsity.split(",")[-1])


def test_missing_audio(gated_checkpoint, own_data, tmp_path, capsys):
    (own_data / "b-st_eng.wav").unlink()
    out = tmp_path / "decode"
    assert_refused(capsys, out, run(gated_checkpoint, out, data_dir=own_data), "b-st_eng", "b-st_eng.wav")


@pytest.mark.parametrize("content", [b"", b"this is no audio", b"RIFF____WAVE"])
def test_unreadable_audio_after_some_that_was_decoded(gated_checkpoint, own_data, tmp_path, capsys, content):
    """The last utterance is broken: nothing of the first ones is left either."""
    (own_data / "c-asr.wav").write_bytes(content)
    out = tmp_path / "decode"
    assert_refused(capsys, out, run(gated_checkpoint, out, data_dir=own_data), "utterance c-asr", "c-asr.wav")


def test_empty_audio(gated_checkpoint, own_data, tmp_path, capsys):
    soundfile.write(own_data / "a-asr.wav", wave(0.0), FS)
    out = tmp_path / "decode"
    assert_refused(capsys, out, run(gated_checkpoint, out, data_dir=own_data), "a-asr", "empty")


@pytest.mark.parametrize("samples", [1, 40, 64, 65, 300])
def test_audio_too_short(gated_checkpoint, own_data, tmp_path, capsys, samples):
    """Shorter than a window of the frontend, or than the subsampling needs."""
    soundfile.write(own_data / "b-st_eng.wav", wave(samples / FS), FS)
    out = tmp_path / "decode"
    code = run(gated_checkpoint, out, data_dir=own_data, pad_to_speech_length="false")
    assert_refused(capsys, out, code, "b-st_eng", "too short")


@pytest.mark.parametrize("samples", [1, 40])
def test_audio_shorter_than_a_window_is_refused_though_it_would_be_padded(
    gated_checkpoint, own_data, tmp_path, capsys, samples
):
    soundfile.write(own_data / "b-st_eng.wav", wave(samples / FS), FS)
    out = tmp_path / "decode"
    assert_refused(capsys, out, run(gated_checkpoint, out, data_dir=own_data), "b-st_eng", "too short")


def test_short_audio_is_padded(gated_checkpoint, own_data, tmp_path):
    soundfile.write(own_data / "b-st_eng.wav", wave(300 / FS), FS)
    assert run(gated_checkpoint, tmp_path / "decode", data_dir=own_data) == 0


def test_checkpoint_of_another_shape(gated_checkpoint, own_data, tmp_path, capsys):
    other = make_checkpoint(tmp_path / "other", gated=True, encoder_conf={"linear_units": 24})
    out = tmp_path / "decode"
    code = run(gated_checkpoint, out, data_dir=own_data, s2t_model_file=other.weights)
    assert_refused(capsys, out, code, other.weights, "does not fit", "feed_forward", "24", "16")


@pytest.mark.parametrize("change", ["unknown", "missing", "garbage", "list", "absent"])
def test_checkpoint_that_is_none(gated_checkpoint, own_data, tmp_path, capsys, change):
    state = torch.load(gated_checkpoint.weights, weights_only=True)
    name = "encoder.encoders.0.attn.linear_q.weight"
    path, words = tmp_path / "weights.pth", [name]
    if change == "unknown":
        state["encoder.adapter.weight"] = state[name]
        words = ["unknown encoder.adapter.weight"]
    elif change == "missing":
        del state[name]
        words = [f"missing {name}"]
    if change == "garbage":
        path.write_bytes(b"no checkpoint at all")
        words = ["not a readable checkpoint"]
    elif change == "list":
        torch.save([1, 2], path)
        words = ["not a"]
    elif change == "absent":
        words = ["no such file"]
    else:
        torch.save(state, path)
    out = tmp_path / "decode"
    assert_refused(capsys, out, run(gated_checkpoint, out, data_dir=own_data, s2t_model_file=path), path, *words)


def test_unknown_language(gated_checkpoint, own_data, tmp_path, capsys):
    (own_data / "utt2lang").write_text("a-asr deu\nb-st_eng xyz\nc-asr deu\n", encoding="utf-8")
    out = tmp_path / "decode"
    assert_refused(capsys, out, run(gated_checkpoint, out, data_dir=own_data), "<xyz> is not in the token list")


def test_data_that_is_not_there(gated_checkpoint, own_data, tmp_path, capsys):
    out = tmp_path / "decode"
    code = run(gated_checkpoint, out, data_dir=tmp_path / "nowhere")
    assert_refused(capsys, out, code, tmp_path / "nowhere" / "wav.scp", "no such file")
    code = run(gated_checkpoint, out)
    assert_refused(capsys, out, code, "--data_dir", "--data_path_and_name_and_type")
    key = tmp_path / "keys"
    key.write_text("a-asr\nz-asr\n", encoding="utf-8")
    code = run(gated_checkpoint, out, data_dir=own_data, key_file=key)
    assert_refused(capsys, out, code, key, "z-asr")
    (own_data / "wav.scp").write_text("a-asr\n", encoding="utf-8")
    code = run(gated_checkpoint, out, data_dir=own_data)
    assert_refused(capsys, out, code, f"{own_data / 'wav.scp'}:1", "a-asr")


def test_a_configuration_that_is_none(gated_checkpoint, own_data, tmp_path, capsys):
    out = tmp_path / "decode"
    code = run(gated_checkpoint, out, data_dir=own_data, s2t_train_config=tmp_path / "nowhere.yaml")
    assert_refused(capsys, out, code, "nowhere.yaml", "no such file")
    config = yaml.safe_load(gated_checkpoint.config.read_text(encoding="utf-8"))
    config["encoder_conf"]["gating"] = {"target_sparsity": 1.3}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    code = run(gated_checkpoint, out, data_dir=own_data, s2t_train_config=tmp_path / "config.yaml")
    assert_refused(capsys, out, code, "sparsity must be in [0, 1), got 1.3 (gating.target_sparsity)")


def test_the_knob_is_not_for_dense_models(dense_checkpoint, own_data, tmp_path, capsys):
    out = tmp_path / "decode"
    code = run(dense_checkpoint, out, data_dir=own_data, sparsity=0.5)
    assert_refused(capsys, out, code, "dense checkpoint", "--sparsity")
    code = run(dense_checkpoint, out, data_dir=own_data, sparsity=0.5, engine="espnet")
    assert_refused(capsys, out, code, "--engine gated", "--sparsity")


def test_a_failed_run_leaves_earlier_results_alone(gated_checkpoint, own_data, tmp_path, capsys):
    out = tmp_path / "decode"
    assert run(gated_checkpoint, out, data_dir=own_data) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    (own_data / "c-asr.wav").write_bytes(b"no audio")
    assert run(gated_checkpoint, out, data_dir=own_data) == 1
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir() if "decode" in p.name] == ["decode"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": -1}, "batch_size must be at least 1, got -1 (--batch_size)"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0 (--batch_size)"),
        ({"latency_every": 0}, "latency_every must be at least 1, got 0 (--latency_every)"),
        ({"flops_every": 0, "measure_flops": "true"}, "flops_every must be at least 1, got 0 (--flops_every)"),
        ({"data_path_and_name_and_type": "x/text.prev,text_prev,text"}, "x/text.prev: only speech is read here"),
        (
            {"word_lm_file": "lm.pth"},
            "a word LM, lm.pth, is what ESPnet's S2T decoding has not either (--word_lm_file)",
        ),
        ({"engine": "espnet", "budget": "fixed"}, "--budget fixed needs --engine gated, got --engine espnet"),
        ({"engine": "espnet", "sparsity": 0.5}, "--sparsity 0.5 needs --engine gated, got --engine espnet"),
        ({"engine": "espnet", "pad_to_speech_length": "false"}, "--pad_to_speech_length False needs --engine gated"),
        ({"budget": "random"}, "budget random was asked of a dense checkpoint, which has no gates (--budget)"),
    ],
)
def test_what_nobody_could_carry_out(dense_checkpoint, own_data, tmp_path, capsys, options, message):
    out = tmp_path / "decode"
    assert_refused(capsys, out, run(dense_checkpoint, out, data_dir=own_data, **options), message)


def test_nothing_to_decode(gated_checkpoint, own_data, tmp_path, capsys):
    keys = tmp_path / "keys"
    keys.write_text("", encoding="utf-8")
    out = tmp_path / "decode"
    code = run(gated_checkpoint, out, data_dir=own_data, key_file=keys)
    assert_refused(capsys, out, code, f"{keys}: no utterance to decode")


def test_the_usual_sparsity_is_what_was_asked_for(gated_checkpoint, data_dir, tmp_path):
    """Nobody names one: the model's own, trained for 0.5, is on record."""
    assert run(gated_checkpoint, tmp_path / "decode", data_dir=data_dir) == 0
    for row in stats_of(tmp_path / "decode").values():
        assert (row["sparsity_encoder"], row["sparsity_decoder"]) == (0.5, 0.5)
        assert row["skipped_encoder"] > 0.4


def test_open_gates_were_asked_to_skip_nothing(gated_checkpoint, data_dir, tmp_path):
    assert run(gated_checkpoint, tmp_path / "decode", data_dir=data_dir, budget="open") == 0
    for row in stats_of(tmp_path / "decode").values():
        assert (row["sparsity_encoder"], row["sparsity_decoder"], row["skipped_encoder"]) == (0.0, 0.0, 0.0)


def test_a_wish_in_time(gated_checkpoint, data_dir, tmp_path, monkeypatch, capsys):
    """Measured once for what it holds for, and anew for another beam or other weights."""
    measured = []
    sizes = []
    real = calibration.calibrate

    def counted(model, batches, *args, **options):
        sizes.append([len(batch) for batch in batches])
        measured.append(real(model, batches, *args, **options, repeats=1))
        return measured[-1]

    monkeypatch.setattr(calibration, "calibrate", counted)
    file = tmp_path / "calibration.json"

    def wish(rtf=1000.0, **options):
        options = {"data_dir": data_dir, "rtf": rtf, "calibration": file, "maxlenratio": -2} | options
        return run(gated_checkpoint, tmp_path / "decode", **options)

    assert wish() == 0 and len(measured) == 1
    assert {row["sparsity_decoder"] for row in stats_of(tmp_path / "decode").values()} == {0.0}
    assert wish() == 0 and len(measured) == 1
    assert wish(beam_size=1) == 0 and len(measured) == 2
    assert wish(batch_size=2) == 0 and len(measured) == 3  # decoded together, as asked
    assert set(sizes[0]) == {1} and max(sizes[2]) == 2 and measured.pop().holds_for["batch_size"] == 2
    assert wish(beam_size=1, budget="random") == 0 and len(measured) == 3
    assert measured[-1].holds_for["budget"] == "random" and measured[-1].holds_for["device"] == "cpu"
    assert list(tmp_path.glob("calibration.json*")) == [file]
    before = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**before, "holds_for": {"machine": "another"}}), encoding="utf-8")
    assert wish(beam_size=1, budget="random") == 0 and len(measured) == 4
    assert wish(1e-9) == 1 and "out of reach: at sparsity 0.9" in capsys.readouterr().err
    file.write_text("[]", encoding="utf-8")
    assert wish() == 1 and f"{file}: not a calibration" in capsys.readouterr().err


def test_the_least_sparsity_that_is_fast_enough():
    found = calibration.Calibration((0.0, 0.4, 0.8), (0.10, 0.06, 0.02), {})
    assert found.sparsity_for(0.2) == 0.0
    assert found.sparsity_for(0.08) == pytest.approx(0.2)
    assert found.sparsity_for(0.02) == pytest.approx(0.8)
    noisy = calibration.Calibration((0.0, 0.4, 0.8), (0.10, 0.04, 0.06), {})
    assert noisy.sparsity_for(0.06) == pytest.approx(0.4)  # what one can rely on from there upwards
    with pytest.raises(ValueError, match=r"rtf 0.01 is out of reach: at sparsity 0.8 this machine needs 0.02"):
        found.sparsity_for(0.01)
    with pytest.raises(ValueError, match=r"rtf must be above 0, got 0 \(--rtf\)"):
        found.sparsity_for(0)
