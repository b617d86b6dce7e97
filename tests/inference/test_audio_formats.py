"""The same utterance in every format and at every rate is decoded to the same tokens, as far as the format allows.

The checkpoint is random, and what its decoder writes depends little on the audio. Its CTC answers to every frame: with
``--ctc_weight 1`` a file that is misread (at a wrong rate, backwards) changes most of the 41 tokens, where MP3, Opus
and the telephone band change a quarter, G.722 a half, and resampling none.
"""

import subprocess

import editdistance
import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly
from tiny_checkpoint import make_checkpoint

from espnet_gated.bin import s2t_inference
from espnet_gated.data import ffmpeg
from espnet_gated.data.audio import resample

FS = 16000
BASE = 96000  # Hz at which the utterance is made
SECONDS = 0.9
HEARD, MISHEARD = 0.45, 0.65  # shares of other tokens: at most, at least
HEARD_G722 = 0.6  # it has two bits for what lies above 4 kHz


def utterance(rate):
    """A voice with moving formants, and hisses between: (T,) of whole 16-bit values."""
    time = np.arange(round(SECONDS * BASE)) / BASE
    pitch = 110 + 30 * np.sin(2 * np.pi * 1.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / BASE
    formants = [
        (500 + 250 * np.sin(2 * np.pi * 2.3 * time + 3), 150, 1.0),
        (1500 + 600 * np.sin(2 * np.pi * 1.9 * time + 4), 250, 0.5),
        (2700, 300, 0.15),
    ]
    voice = np.zeros_like(time)
    for k in range(1, 40):
        level = 0.02 + sum(gain * np.exp(-(((k * pitch - at) / width) ** 2)) for at, width, gain in formants)
        voice += np.where(k * pitch < 3800, level, 0.02 * level) * np.sin(k * phase)
    noise = np.random.default_rng(3).standard_normal(len(time))
    hiss = np.sin(2 * np.pi * 3 * time + 3) > 0.7
    sound = voice * (0.3 + 0.7 * np.sin(2 * np.pi * 2.7 * time) ** 2) * ~hiss + 0.6 * noise * hiss + 0.01 * noise
    sound = resample_poly(0.4 * sound / np.abs(sound).max(), rate, BASE)
    return np.rint(32767 * sound).astype(np.int16)


def files(folder):
    """Every file, by the name of its utterance."""
    native = utterance(FS)
    narrow = resample((utterance(8000) / 32768).astype(np.float32), 8000, FS)
    made = {
        "reference.wav": (native, FS, None),
        "same.flac": (native, FS, None),
        "float.wav": (native / 32768, FS, "FLOAT"),
        "stereo.wav": (np.stack([native, native], axis=1), FS, None),
        "stereo.flac": (np.stack([native, native], axis=1), FS, "PCM_24"),
        "narrow.wav": (narrow, FS, "FLOAT"),
        "8k.wav": (utterance(8000), 8000, None),
        "8k.flac": (utterance(8000), 8000, None),
        "16k.mp3": (native, FS, None),
        "44k.mp3": (utterance(44100), 44100, None),
        "opus.ogg": (utterance(48000), 48000, "OPUS"),
        "vorbis.ogg": (native, FS, "VORBIS"),
        "misread_8k.wav": (utterance(8000), FS, None),
        "misread_22k.wav": (utterance(22050), FS, None),
        "misread_48k.wav": (utterance(48000), FS, None),
        "misread_backwards.wav": (native[::-1], FS, None),
    }
    for rate in (22050, 44100, 48000):
        high = utterance(rate)
        made |= {f"{rate}.wav": (high, rate, None), f"{rate}.flac": (np.stack([high, high], axis=1), rate, None)}
    for name, (samples, rate, subtype) in made.items():
        soundfile.write(folder / name, samples, rate, subtype=subtype)
    program = ffmpeg.find_program()
    others = {"g722.g722": ["-ac", "1", "-ar", "16000"], "aac.m4a": [], "opus.webm": []}
    for name, options in others.items() if program is not None else ():
        command = [program, "-v", "error", "-i", folder / "48000.wav", *options, folder / name]
        subprocess.run(command, check=True)
        made[name] = None
    return {name: folder / name for name in made}


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """File → (tokens after the primer, score)."""
    folder = tmp_path_factory.mktemp("formats")
    checkpoint = make_checkpoint(folder / "model", gated=True, seed=3, fs=FS)
    paths = files(folder)
    for table, value in (("wav.scp", str), ("utt2lang", lambda _: "deu"), ("utt2task", lambda _: "asr")):
        lines = [f"{name} {value(path)}\n" for name, path in sorted(paths.items())]
        (folder / table).write_text("".join(lines), encoding="utf-8")
    options = {
        "s2t_train_config": checkpoint.config,
        "s2t_model_file": checkpoint.weights,
        "bpemodel": checkpoint.bpemodel,
        "data_dir": folder,
        "output_dir": folder / "out",
        "beam_size": 3,
        "ctc_weight": 1.0,
        "sparsity": 0.3,
        "dtype": "float64",
        "log_level": "WARNING",
    }
    assert s2t_inference.main([part for name, value in options.items() for part in (f"--{name}", str(value))]) == 0
    rows = {}
    for name in ("token", "score"):
        lines = (folder / "out" / "1best_recog" / name).read_text(encoding="utf-8").splitlines()
        rows[name] = dict(line.split(maxsplit=1) for line in lines)
    return {name: (rows["token"][name].split()[3:], rows["score"][name]) for name in paths}


def difference(decoded, name):
    """Share of the reference's tokens that are others in this file."""
    tokens, _ = decoded["reference.wav"]
    return editdistance.eval(decoded[name][0], tokens) / len(tokens)


def test_the_reference_says_much(decoded):
    tokens, _ = decoded["reference.wav"]
    assert len(tokens) >= 30 and len(set(tokens)) >= 8


@pytest.mark.parametrize("name", ["same.flac", "float.wav", "stereo.wav", "stereo.flac"])
def test_formats_that_lose_nothing(decoded, name):
    """Same samples: same tokens, and the same score to the last digit."""
    assert decoded[name] == decoded["reference.wav"]


@pytest.mark.parametrize("rate", [22050, 44100, 48000])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_higher_rates(decoded, rate, suffix):
    assert difference(decoded, f"{rate}.{suffix}") == 0


@pytest.mark.parametrize("name", ["8k.wav", "8k.flac"])
def test_half_the_rate_is_the_telephone_band(decoded, name):
    """The tokens of a file at the model's rate without what 8 kHz cannot hold; some are others than the reference's."""
    assert decoded[name][0] == decoded["narrow.wav"][0]
    assert difference(decoded, name) <= HEARD


@pytest.mark.parametrize("name", ["16k.mp3", "44k.mp3", "opus.ogg", "vorbis.ogg", "g722.g722", "aac.m4a", "opus.webm"])
def test_lossy_formats(decoded, name):
    if name not in decoded:
        pytest.skip("no program ffmpeg to write it")
    assert difference(decoded, name) <= (HEARD_G722 if name.endswith("g722") else HEARD)


@pytest.mark.parametrize("how", ["8k", "22k", "48k", "backwards"])
def test_a_file_that_is_misread_is_heard(decoded, how):
    """Samples taken for 16 kHz that are not, or in the wrong order: what the tests above would not let pass."""
    assert difference(decoded, f"misread_{how}.wav") >= MISHEARD
