"""Speech for the mini corpus: espeak-ng through its C interface, many speakers, the same bytes for the same seed.

A speaker is an espeak-ng *variant* (formants, pitch range, breath) speaking one language; each utterance adds its own
rate, pitch, intonation range, vocal-tract warp and a little noise.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import espeakng_loader
import numpy as np
import soundfile
from scipy.signal import resample_poly
from tqdm import tqdm

FS = 16000
BLOCK = 64  # utterances that one process speaks
ESPEAK_VOICES = {"deu": "de", "eng": "en-us", "fra": "fr", "ita": "it", "rus": "ru", "spa": "es-419"}

# Variants that sound like people. Left out by their own description, not by any score: whispers, robots, Klatt
# synthesis (another engine), effects (croak, Demonic, Tweaky, ...), second versions of a voice (steph2, ...), so that
# no test voice has a twin in training, and Storm, which names a language of its own.
FEMALE_VARIANTS = ("Alicia Andrea Annie anika aunty belinda f1 f2 f3 f4 f5 grandma linda steph").split()
MALE_VARIANTS = (
    "Alex Andy Denis Diogo Gene Henrique Hugo Jacky Lee Marco Mario Michael Mike Nguyen "
    "antonio boris ed gustave ian john m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel "
    "norbert pablo paul pedro quincy rob robert sandro travis victor"
).split()
VOICE_SEED = 2026  # the split below is drawn once, before any score was seen

# Playing 22.05 kHz speech at another pretended rate shifts pitch and formants like a longer or shorter vocal tract.
PRETENDED_RATES = tuple(range(19500, 25001, 500))


@dataclass(frozen=True)
class VoiceSplit:
    """Variants of each set; no variant stands in two of them."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]


def split_voices(seed: int = VOICE_SEED) -> VoiceSplit:
    """Draw 5 test voices (2 female, 3 male) and 3 dev voices (1, 2) by ``seed``; the rest is for training."""
    rng = random.Random(seed)
    female = rng.sample(FEMALE_VARIANTS, len(FEMALE_VARIANTS))
    male = rng.sample(MALE_VARIANTS, len(MALE_VARIANTS))
    return VoiceSplit(
        train=tuple(sorted(female[3:] + male[5:])),
        dev=tuple(sorted(female[2:3] + male[3:5])),
        test=tuple(sorted(female[:2] + male[:3])),
    )


@dataclass(frozen=True)
class Speech:
    """One utterance to speak.

    Args:
        path: wav file to write (16 kHz, 16 bit, mono).
        lang: ISO 639-3.
        text: what to say.
        variant: espeak-ng variant.
        rate: words per minute.
        pitch, pitch_range: espeak-ng's 0 to 100.
        pretended_rate: Hz; 22050 leaves the voice as it is.
        snr_db: level of the speech over white noise.
        seed: of the noise.
    """

    path: Path
    lang: str
    text: str
    variant: str
    rate: int
    pitch: int
    pitch_range: int
    pretended_rate: int
    snr_db: float
    seed: int


def draw_speech(path: Path, lang: str, text: str, variants: Sequence[str], rng: random.Random) -> Speech:
    """Choose a voice out of ``variants`` and a manner of speaking by ``rng``."""
    return Speech(
        path=path,
        lang=lang,
        text=text,
        variant=rng.choice(variants),
        rate=rng.randint(200, 250),
        pitch=rng.randint(30, 70),
        pitch_range=rng.randint(35, 70),
        pretended_rate=rng.choice(PRETENDED_RATES),
        snr_db=rng.uniform(25.0, 45.0),
        seed=rng.getrandbits(31),
    )


class Engine(Protocol):
    """Speaks at 22.05 kHz, in the process that made it."""

    def speak(self, speech: Speech) -> np.ndarray:
        """Return float32 samples (T,)."""


class Espeak:
    """The one espeak-ng of this process, in synchronous mode: samples arrive while ``espeak_Synth`` runs."""

    _SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS
    _UTF8 = 1
    _RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
    _CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

    def __init__(self, seed: int) -> None:
        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.fs: int = self._lib.espeak_Initialize(self._SYNCHRONOUS, 0, data, 0)
        if self.fs <= 0:
            raise RuntimeError(f"espeak-ng did not start (code {self.fs}, data {data!r})")
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._chunks: list[np.ndarray] = []
        self._callback = self._CALLBACK(self._collect)  # kept: C holds only the pointer
        self._lib.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, speech: Speech) -> np.ndarray:
        """Return float32 samples (T,) at ``self.fs``; raises ``RuntimeError`` for an unknown voice or no sound."""
        voice = f"{ESPEAK_VOICES[speech.lang]}+{speech.variant}"
        self._check(self._lib.espeak_SetVoiceByName(voice.encode()), f"voice {voice}")
        for parameter, value in (
            (self._RATE, speech.rate),
            (self._PITCH, speech.pitch),
            (self._RANGE, speech.pitch_range),
        ):
            self._check(self._lib.espeak_SetParameter(parameter, value, 0), "parameter")
        self._chunks.clear()
        text = speech.text.encode()
        code = self._lib.espeak_Synth(text, len(text) + 1, 0, 0, 0, self._UTF8, None, None)
        self._check(code, f"text {speech.text!r}")
        if not self._chunks:
            raise RuntimeError(f"espeak-ng made no sound for {speech.text!r} as {voice}")
        return np.concatenate(self._chunks).astype(np.float32) / 32768

    @staticmethod
    def _check(code: int, what: str) -> None:
        if code != 0:
            raise RuntimeError(f"espeak-ng refused the {what} (code {code})")


def trim(samples: np.ndarray, keep: int, floor: float = 1e-3) -> np.ndarray:
    """Cut the silence around the speech down to ``keep`` samples on either side."""
    loud = np.flatnonzero(np.abs(samples) > floor)
    if loud.size == 0:
        raise RuntimeError("the utterance is silent")
    return samples[max(0, loud[0] - keep) : loud[-1] + keep]


def render(engine: Engine, speech: Speech) -> np.ndarray:
    """Return the finished utterance, float32 (T,) at 16 kHz with its peak near 0.5."""
    samples = resample_poly(engine.speak(speech), FS // 100, speech.pretended_rate // 100)
    samples = trim(samples, keep=FS // 20)
    samples *= 0.5 / np.abs(samples).max()
    sigma = np.sqrt(np.mean(samples**2)) * 10 ** (-speech.snr_db / 20)
    noise = np.random.default_rng(speech.seed).normal(0.0, sigma, len(samples))
    return (samples + noise).astype(np.float32)


def _write_block(start: Callable[[int], Engine], block: list[Speech]) -> list[int]:
    """Worker, in a process of its own: write the wavs of a block and return their lengths in samples.

    espeak-ng carries hidden state from one utterance to the next. Only a fresh process that speaks the same block makes
    the same bytes, so a block with a missing file is spoken again from its start.
    """
    if all(speech.path.exists() for speech in block):
        return [soundfile.info(speech.path).frames for speech in block]
    engine = start(block[0].seed)
    return [_write(speech, render(engine, speech)) for speech in block]


def _write(speech: Speech, samples: np.ndarray) -> int:
    partial = speech.path.with_suffix(f".{os.getpid()}.tmp")
    try:
        soundfile.write(partial, samples, FS, subtype="PCM_16", format="WAV")
        os.replace(partial, speech.path)
    finally:
        partial.unlink(missing_ok=True)
    return len(samples)


def synthesize(
    speeches: Iterable[Speech], workers: int = 2, start: Callable[[int], Engine] = Espeak, name: str = "espeak-ng"
) -> list[int]:
    """Write every utterance and return the lengths in samples, in the order given.

    Blocks whose files all exist are kept, so an interrupted run goes on where it stopped.

    Args:
        speeches: what to speak.
        workers: processes.
        start: makes an engine from a seed, in each process.
        name: of the engine, for the progress bar.
    """
    jobs = list(speeches)
    for folder in {job.path.parent for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    blocks = [jobs[i : i + BLOCK] for i in range(0, len(jobs), BLOCK)]
    lengths: list[int] = []
    # fork: a block costs milliseconds to start, spawning would import everything again for each
    context = multiprocessing.get_context("fork")
    with (
        context.Pool(workers, maxtasksperchild=1) as pool,
        tqdm(total=len(jobs), desc=name, unit="utt", mininterval=1.0) as bar,
    ):
        for done in pool.imap(partial(_write_block, start), blocks):
            lengths += done
            bar.update(len(done))
    return lengths
