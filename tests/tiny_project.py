"""A directory in which the commands of ``docs/`` make sense: seconds of noise, texts, and tiny configurations."""

import importlib
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from espnet_gated import __main__ as launcher
from espnet_gated.data import Utterance, write_data_dir

ROOT = Path(__file__).resolve().parents[1]
SPECIAL = ["<na>", "<deu>", "<asr>", "<st_eng>", "<notimestamps>"]
TOKENS = ["<blank>", "<unk>", *SPECIAL, *"abc ", "<0.00>", "<30.00>", "<sop>", "<sos>", "<eos>"]
LAYERS: dict[str, Any] = {"attention_heads": 2, "linear_units": 16, "num_blocks": 2}
GATING = {"hidden_units": 4}
DATA = {"wav.scp": ("speech", "sound"), "text": ("text", "text")}
DATA |= {"text.prev": ("text_prev", "text"), "text.ctc": ("text_ctc", "text")}
CONFIG: dict[str, Any] = {
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
    "encoder": "conformer",
    "encoder_conf": {**LAYERS, "output_size": 16, "cnn_module_kernel": 3, "macaron_style": True},
    "decoder": "transformer",
    "decoder_conf": LAYERS,
    "model_conf": {"ctc_weight": 0.3, "report_cer": False, "report_wer": False},
    "batch_type": "unsorted",
    **{"batch_size": 4, "max_epoch": 1, "num_workers": 0, "num_att_plot": 0, "log_interval": 1},
    **{"use_matplotlib": False, "use_tensorboard": False, "best_model_criterion": [["valid", "acc", "max"]]},
}


def gated(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with gated names."""
    changed = {"encoder": f"gated_{config['encoder']}", "decoder": f"gated_{config['decoder']}"}
    for part in ("encoder_conf", "decoder_conf"):
        changed[part] = {**config[part], "gating": GATING}
    return {**config, **changed}


def with_data(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the data named in it, as options of the command line may be."""
    named = {
        f"{kind}_data_path_and_name_and_type": [[f"data/{folder}/{file}", *what] for file, what in DATA.items()]
        for kind, folder in (("train", "train"), ("valid", "dev"))
    }
    shapes = {f"{kind}_shape_file": [f"data/{f}/utt2num_samples"] for kind, f in (("train", "train"), ("valid", "dev"))}
    return {**config, **named, **shapes}


def make_data(folder: Path) -> None:
    """``data/{train,dev,test}`` of four utterances each, two speakers, one language and task; ``audio/hello.wav``."""
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir()
    for name in ("train", "dev", "test"):
        utterances = []
        for number in range(4):
            speaker, utt = f"spk{number % 2}", f"spk{number % 2}-{name}{number}"
            wav = folder / "audio" / f"{utt}.wav"
            soundfile.write(wav, 0.1 * rng.standard_normal(16000), 16000)
            row = {"lang": "deu", "task": "asr", "text": "ab c", "text_ctc": "ab c", "num_samples": 16000}
            utterances.append(Utterance(utt, str(wav), speaker, **row))
        write_data_dir(folder / "data" / name, utterances)
    soundfile.write(folder / "audio" / "hello.wav", 0.1 * rng.standard_normal(12000), 16000)
    (folder / "specials.txt").write_text("\n".join(SPECIAL) + "\n")


def write_config(path: Path, config: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(yaml.safe_load(yaml.safe_dump(config)), sort_keys=False))


def run(command: str) -> None:
    """Run a command line of a page without starting another interpreter (ESPnet's import takes ten seconds)."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    old = sys.argv  # ESPnet's defaults come from there
    try:
        if words[:3] == ["python", "-m", "espnet_gated"]:
            launcher.main(words[3:])
        elif words[:2] == ["python", "-m"]:
            assert importlib.import_module(words[2]).main(words[3:]) in (0, None)
        else:
            assert words[0] == "python", command
            sys.argv = [str(ROOT / words[1]), *words[2:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, f"{command}: {end.code}"
    finally:
        sys.argv = old


def commands(block: str) -> list[str]:
    """The command lines of a shell block; a backslash joins lines."""
    lines = [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    return [line for line in lines if not line.lstrip().startswith("#")]
