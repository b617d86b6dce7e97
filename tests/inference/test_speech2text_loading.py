"""What ``Speech2Text`` loads: folders, other precisions, quantised models, language models."""

from argparse import Namespace

import pytest
import torch
import yaml
from espnet2.bin.s2t_inference import Speech2Text as ESPnetSpeech2Text
from espnet2.tasks.lm import LMTask
from tiny_checkpoint import make_checkpoint, wave
from tiny_speech2text import assert_same_results, load

from espnet_gated import Speech2Text
from espnet_gated.bin.s2t_inference import build, get_parser


def test_a_folder_is_a_pretrained_model(gated_checkpoint, tmp_path):
    folder = Speech2Text.from_pretrained(str(gated_checkpoint.folder), dtype="float64", beam_size=3, lang_sym="<deu>")
    assert_same_results(folder(wave(0.4)), load(gated_checkpoint)(wave(0.4)))
    with pytest.raises(ValueError, match=r"needs config.yaml and a .pth file, or .* \(--model_tag\)"):
        Speech2Text.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_precisions_decode(gated_checkpoint, dtype):
    speech2text = load(gated_checkpoint, dtype=dtype, sparsity=0.5)
    (result, *_) = speech2text(wave(0.4))
    assert result[1][:3] == ["<deu>", "<asr>", "<notimestamps>"] and torch.isfinite(result[4].score)
    assert all(share >= 0.5 - 1e-5 for share in speech2text.stats[0].skipped.values())


def make_language_model(folder, tokens):
    """Configuration and weights of a tiny LSTM."""
    conf = {"unit": 8, "nlayers": 1, "dropout_rate": 0.0}
    config = LMTask.get_default_config() | {"token_list": tokens, "lm": "seq_rnn", "lm_conf": conf}
    text = yaml.safe_dump({name: list(v) if isinstance(v, tuple) else v for name, v in config.items()})
    (folder / "lm.yaml").write_text(text, encoding="utf-8")
    torch.save(LMTask.build_model(Namespace(**yaml.safe_load(text))).state_dict(), folder / "lm.pth")
    return {"lm_train_config": str(folder / "lm.yaml"), "lm_file": str(folder / "lm.pth"), "lm_weight": 0.3}


def test_a_language_model_is_quantised_as_asked(gated_checkpoint, tmp_path):
    """The S2T model is left alone."""
    options = make_language_model(tmp_path, gated_checkpoint.tokens) | {"dtype": "float32", "quantize_lm": True}
    for modules, dtype, quantised in (("LSTM", "qint8", "rnn"), ("Linear", "float16", "decoder")):
        model = load(gated_checkpoint, quantize_modules=[modules], quantize_dtype=dtype, **options)
        lm = model.beam_search.full_scorers["lm"]
        parts = {name: "quantized" in type(getattr(lm, name)).__module__ for name in ("rnn", "decoder")}
        assert parts == {name: name == quantised for name in parts}
        assert type(model.s2t_model.decoder.output_layer) is torch.nn.Linear
    assert lm.decoder._packed_params.dtype == torch.float16
    assert model(wave(0.4))


@pytest.mark.parametrize("engine", ["gated", "espnet"])
def test_partially_autoregressive_decoding_is_refused_by_name(engine):
    """Before anything is loaded; on the command line too, whose option is ESPnet's."""
    args = get_parser().parse_args(["--output_dir", "nowhere", "--engine", engine, "--partial_ar", "true"])
    with pytest.raises(ValueError, match=r"PartiallyARInference with x=, which takes enc_out= \(--partial_ar\)"):
        build(args)


def test_dynamic_int8_decodes_with_gates(gated_checkpoint):
    quantized = load(gated_checkpoint, dtype="float32", quantize_s2t_model=True, sparsity=0.5)
    plain = load(gated_checkpoint, dtype="float32", sparsity=0.5)
    assert type(quantized.s2t_model.decoder.output_layer) is not torch.nn.Linear
    assert isinstance(quantized.s2t_model.decoder.gate_predictor.output, torch.nn.Linear)
    results = [speech2text(wave(0.4, 1)) for speech2text in (quantized, plain)]
    assert all(share >= 0.5 - 1e-5 for share in quantized.stats[0].skipped.values())
    assert results[0][0][1][:3] == results[1][0][1][:3]


@pytest.mark.parametrize("cls", ["config", "weights"])
def test_missing_files_are_named(gated_checkpoint, cls):
    paths = {"config": gated_checkpoint.config, "weights": gated_checkpoint.weights}
    paths[cls] = gated_checkpoint.folder / "nowhere"
    with pytest.raises(ValueError, match="nowhere: no such file"):
        Speech2Text(paths["config"], paths["weights"])


@pytest.mark.parametrize("ratio", [-0.5, -0.01])
def test_a_longest_length_of_no_token_is_refused(gated_checkpoint, ratio):
    with pytest.raises(
        ValueError, match=rf"maxlenratio must be 0, above 0 or at most -1, got {ratio} \(--maxlenratio\)"
    ):
        load(gated_checkpoint, maxlenratio=ratio)


def test_other_decoders_are_prepared_as_espnet_does(tmp_path):
    """A state space model has to be told that single steps come."""
    layers = [{"_name_": "s4", "d_state": 8, "l_max": 64}, {"_name_": "mha", "n_head": 2}, {"_name_": "ff"}]
    conf = {"input_layer": "embed", "n_layers": 1, "layer": layers, "residual": "R", "norm": "layer"}
    dense = make_checkpoint(tmp_path, gated=False, changes={"decoder": "s4", "decoder_conf": conf})
    ours, theirs = load(dense), load(dense, ESPnetSpeech2Text)
    for seed in range(2):
        assert_same_results(ours(wave(0.4, seed)), theirs(wave(0.4, seed)))
