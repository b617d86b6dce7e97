"""docs/contexts.md: its YAML, its commands and its Python run, in this process, on a second of noise."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_gated import __main__ as launcher
from espnet_gated.bin import s2t_inference
from espnet_gated.data import Utterance, write_data_dir
from espnet_gated.inference.request import Request

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "contexts.md").read_text(encoding="utf-8")
SPECIAL = ["<na>", "<deu>", "<asr>", "<st_eng>", "<notimestamps>"]
TOKENS = ["<blank>", "<unk>", *SPECIAL, *"abc ", "<0.00>", "<30.00>", "<sop>", "<sos>", "<eos>"]
LAYERS = {"attention_heads": 2, "linear_units": 16, "num_blocks": 2, "gating": {"hidden_units": 4}}
CONFIG = {
    "frontend_conf": {"n_fft": 400, "hop_length": 160, "n_mels": 16},
    "preprocessor": "s2t",
    "preprocessor_conf": {
        **{"fs": 16000, "speech_length": 1.0, "speech_resolution": 0.02, "speech_init_silence": 0.1},
        **{"text_prev_apply_prob": 0.0, "time_apply_prob": 1.0, "notime_symbol": "<notimestamps>"},
        **{"na_symbol": "<na>", "first_time_symbol": "<0.00>", "last_time_symbol": "<30.00>"},
    },
    "token_list": TOKENS,
    "token_type": "char",
    "non_linguistic_symbols": "specials.txt",
    "normalize": None,
    "encoder": "gated_conformer",
    "encoder_conf": {**LAYERS, "output_size": 16, "cnn_module_kernel": 3, "macaron_style": True},
    "decoder": "gated_transformer",
    "decoder_conf": LAYERS,
    "model_conf": {"ctc_weight": 0.3, "report_cer": False, "report_wer": False},
    "batch_type": "unsorted",
    **{"batch_size": 4, "max_epoch": 1, "num_workers": 0, "num_att_plot": 0, "log_interval": 1},
    **{"use_matplotlib": False, "use_tensorboard": False, "best_model_criterion": [["valid", "acc", "max"]]},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def write_set(name: str, folder: Path, rng: np.random.Generator) -> None:
    utterances = []
    for number in range(4):
        speaker, utt = f"spk{number % 2}", f"spk{number % 2}-{name}{number}"
        wav = folder / "audio" / f"{utt}.wav"
        wav.parent.mkdir(exist_ok=True)
        soundfile.write(wav, 0.1 * rng.standard_normal(16000), 16000)
        row = {"lang": "deu", "task": "asr", "text": "ab c", "text_ctc": "ab c", "num_samples": 16000}
        utterances.append(Utterance(utt, str(wav), speaker, **row))
    write_data_dir(folder / "data" / name, utterances)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the page's commands make sense."""
    folder = tmp_path_factory.mktemp("contexts")
    rng = np.random.default_rng(0)
    for name in ("train", "dev", "test"):
        write_set(name, folder, rng)
    soundfile.write(folder / "audio" / "hello.wav", 0.1 * rng.standard_normal(12000), 16000)
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    config["model_conf"].update(yaml.safe_load(blocks("yaml")[0])["model_conf"])
    (folder / "conf").mkdir()
    (folder / "conf" / "train.yaml").write_text(yaml.safe_dump(config))
    (folder / "specials.txt").write_text("\n".join(SPECIAL) + "\n")
    return folder


def run(command: str) -> None:
    """Run a command line of the page without starting another interpreter."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words.pop(0) == "python"
    if words[:3] == ["-m", "espnet_gated", "-m"]:
        launcher.main(words[2:])
    elif words[:2] == ["-m", "espnet_gated.bin.s2t_inference"]:
        assert s2t_inference.main(words[2:]) == 0
    else:
        sys.argv = [str(ROOT / words[0]), *words[1:]]
        with pytest.raises(SystemExit) as end:
            runpy.run_path(sys.argv[0], run_name="__main__")
        assert end.value.code == 0


def test_the_page_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", [])
    for command in blocks("sh"):
        run(command)
    vectors = [line.split() for line in (project / "data/test/utt2speaker").read_text().splitlines()]
    places = dict(vectors)
    assert places["spk0-test0"] == places["spk0-test2"] != places["spk1-test1"]
    written = (project / "exp/speaker/decode/1best_recog/text").read_text().splitlines()
    assert [line.split()[0] for line in written] == sorted(places)

    names: dict = {}
    exec(blocks("python")[0], names)
    # Together or alone: each utterance keeps its own contexts.
    speech2text, known = names["speech2text"], names["request"]
    vector = {"speaker": np.linspace(-9.0, 9.0, 80)}
    predictor = speech2text.s2t_model.encoder.gate_predictor
    plain, voiced = (Request(known.speech, "<deu>", "<asr>", vectors=given) for given in ({}, vector))
    others = [plain, known, voiced]
    together = [r[0][2] for r in speech2text.decode_batch(others)]
    batch_logits = predictor.last.logits.clone()
    for row, request in enumerate(others):
        assert speech2text.decode_batch([request])[0][0][2] == together[row]
        torch.testing.assert_close(predictor.last.logits[0], batch_logits[row], rtol=1e-4, atol=1e-5)
    assert not torch.equal(batch_logits[0], batch_logits[1]) and not torch.equal(batch_logits[0], batch_logits[2])
