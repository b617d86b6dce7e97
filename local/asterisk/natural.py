"""Synthesisers whose voices were trained on recordings of people: SVOX Pico and RHVoice, through their C interfaces.

espeak-ng computes formants by rule; these two speak with the spectra of real speakers, which is nearer to the prompts.
Pico has one voice for each of five languages, RHVoice several for English and Russian. Both run from an unpacked
Debian package tree, without root.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from local.mini.synth import Speech

NOMINAL_FS = 22050  # Speech.pretended_rate is relative to espeak-ng's rate
BASE_RATE = 175  # words per minute that count as a voice's own speed

PACKAGES = (
    "libttspico0",
    "libttspico-data",
    "libsonic0",
    "librhvoice-core7",
    "librhvoice5",
    "rhvoice-english",
    "rhvoice-russian",
)
PICO_VOICES = {
    "en-US": ("eng", "lh0"),
    "en-GB": ("eng", "kh0"),
    "es-ES": ("spa", "zl0"),
    "fr-FR": ("fra", "nk0"),
    "it-IT": ("ita", "cm0"),
}
# Those under the LGPL; the packages hold more, under licences that forbid derivatives.
RHVOICE_VOICES = {
    "alan": "eng",
    "bdl": "eng",
    "clb": "eng",
    "slt": "eng",
    "aleksandr": "rus",
    "anna": "rus",
    "elena": "rus",
    "irina": "rus",
}


def voices(lang: str) -> list[str]:
    """Names of the voices of a language (ISO 639-3): ``pico:it-IT``, ``rhvoice:anna``."""
    pico = [f"pico:{name}" for name, (spoken, _) in PICO_VOICES.items() if spoken == lang]
    return pico + [f"rhvoice:{name}" for name, spoken in RHVOICE_VOICES.items() if spoken == lang]


def is_natural(variant: str) -> bool:
    """Whether a voice is one of these, not a variant of espeak-ng."""
    return ":" in variant


class Natural:
    """Speaks with any voice of :func:`voices`; engines start when first needed.

    Args:
        root: unpacked packages (the folder that holds ``usr``).
        seed: not used, both engines draw nothing; there for :func:`local.mini.synth.synthesize`.
    """

    fs = NOMINAL_FS

    def __init__(self, root: Path, seed: int = 0) -> None:
        self._root = root
        self._pico: dict[str, _Pico] = {}
        self._rhvoice: _RHVoice | None = None

    def speak(self, speech: Speech) -> np.ndarray:
        """Return float32 samples (T,) at ``fs``; raises ``RuntimeError`` for an unknown voice or no sound."""
        engine, _, name = speech.variant.partition(":")
        speed = speech.rate / BASE_RATE
        if engine == "pico" and name in PICO_VOICES:
            if name not in self._pico:
                self._pico[name] = _Pico(self._root, name)
            fs, samples = 16000, self._pico[name].speak(speech.text, speed, 1 + (speech.pitch - 50) / 100)
        elif engine == "rhvoice" and name in RHVOICE_VOICES:
            if self._rhvoice is None:
                self._rhvoice = _RHVoice(self._root)
            fs, samples = self._rhvoice.speak(speech.text, name, speed, 1 + (speech.pitch - 50) / 100)
        else:
            raise RuntimeError(f"no such voice: {speech.variant!r}")
        if not len(samples):
            raise RuntimeError(f"{speech.variant} made no sound for {speech.text!r}")
        common = np.gcd(NOMINAL_FS, fs)
        return resample_poly(samples.astype(np.float32) / 32768, NOMINAL_FS // common, fs // common)


def _library(root: Path, name: str, mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL:
    found = sorted(root.glob(f"usr/lib/*/{name}"))
    if not found:
        raise RuntimeError(f"no {name} below {root}/usr/lib; is the package unpacked whole?")
    return ctypes.CDLL(str(found[0]), mode=mode)


class _Pico:
    """One voice of Pico (picoapi.h): 16 kHz, 16 bit."""

    _MEMORY = 2_500_000
    _BUSY, _IDLE = 201, 200

    def __init__(self, root: Path, name: str) -> None:
        self._lib = _library(root, "libttspico.so.0")
        self._memory = ctypes.create_string_buffer(self._MEMORY)
        system = ctypes.c_void_p()
        self._call("pico_initialize", self._memory, ctypes.c_uint32(self._MEMORY), ctypes.byref(system))
        self._call("pico_createVoiceDefinition", system, b"voice")
        folder = root / "usr" / "share" / "pico" / "lang"
        for file in (folder / f"{name}_ta.bin", folder / f"{name}_{PICO_VOICES[name][1]}_sg.bin"):
            resource, title = ctypes.c_void_p(), ctypes.create_string_buffer(200)
            self._call("pico_loadResource", system, str(file).encode(), ctypes.byref(resource))
            self._call("pico_getResourceName", system, resource, title)
            self._call("pico_addResourceToVoiceDefinition", system, b"voice", title)
        self._engine = ctypes.c_void_p()
        self._call("pico_newEngine", system, b"voice", ctypes.byref(self._engine))

    def speak(self, text: str, speed: float, pitch: float) -> np.ndarray:
        marked = f'<speed level="{speed:.0%}"><pitch level="{pitch:.0%}">{text}</pitch></speed>'.replace('%"', '"')
        waiting = marked.encode() + b"\0"  # the end of the text makes it speak what it holds
        pieces: list[bytes] = []
        buffer, kind, count = ctypes.create_string_buffer(128), ctypes.c_int16(), ctypes.c_int16()
        while waiting:
            part = waiting[:30000]
            self._call("pico_putTextUtf8", self._engine, part, ctypes.c_int16(len(part)), ctypes.byref(count))
            waiting = waiting[count.value :]
            code = self._BUSY
            while code == self._BUSY:
                code = self._lib.pico_getData(
                    self._engine, buffer, ctypes.c_int16(128), ctypes.byref(count), ctypes.byref(kind)
                )
                pieces.append(buffer.raw[: count.value])
            if code != self._IDLE:
                raise RuntimeError(f"Pico failed on {text!r} (code {code})")
        return np.frombuffer(b"".join(pieces), dtype=np.int16)

    def _call(self, name: str, *args: Any) -> None:
        code = getattr(self._lib, name)(*args)
        if code != 0:
            raise RuntimeError(f"{name} failed (code {code})")


_SetRate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_Play = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_uint, ctypes.c_void_p)


class _InitParams(ctypes.Structure):
    """RHVoice_init_params with its RHVoice_callbacks (RHVoice.h of 1.8); seven callbacks stay empty."""

    _fields_: Sequence[Any] = [
        ("data_path", ctypes.c_char_p),
        ("config_path", ctypes.c_char_p),
        ("resource_paths", ctypes.c_void_p),
        ("set_sample_rate", _SetRate),
        ("play_speech", _Play),
        ("others", ctypes.c_void_p * 7),
        ("options", ctypes.c_uint),
    ]


class _SynthParams(ctypes.Structure):
    _fields_: Sequence[Any] = [
        ("voice_profile", ctypes.c_char_p),
        *((f"absolute_{what}", ctypes.c_double) for what in ("rate", "pitch", "volume")),
        *((f"relative_{what}", ctypes.c_double) for what in ("rate", "pitch", "volume")),
        ("punctuation_mode", ctypes.c_int),
        ("punctuation_list", ctypes.c_char_p),
        ("capitals_mode", ctypes.c_int),
        ("flags", ctypes.c_int),
    ]


class _RHVoice:
    """All voices of RHVoice 1.8."""

    def __init__(self, root: Path) -> None:
        for needed in ("libsonic.so.0", "libRHVoice_core.so.7"):  # the loader does not look below root
            _library(root, needed, ctypes.RTLD_GLOBAL)
        self._lib = _library(root, "libRHVoice.so.5")
        pointer = ctypes.c_void_p
        self._declare("RHVoice_new_tts_engine", pointer, ctypes.POINTER(_InitParams))
        self._declare(
            "RHVoice_new_message", pointer, pointer, ctypes.c_char_p, ctypes.c_uint, ctypes.c_int,
            ctypes.POINTER(_SynthParams), pointer,
        )  # fmt: skip
        self._declare("RHVoice_speak", ctypes.c_int, pointer)
        self._declare("RHVoice_delete_message", None, pointer)
        self._fs = 0
        self._chunks: list[np.ndarray] = []
        self._callbacks = (_SetRate(self._set_rate), _Play(self._play))  # kept: C holds only the pointers
        data, config = root / "usr" / "share" / "RHVoice", root / "etc" / "RHVoice"
        params = _InitParams(str(data).encode(), str(config).encode(), None, *self._callbacks)
        self._engine = self._lib.RHVoice_new_tts_engine(ctypes.byref(params))
        if not self._engine:
            raise RuntimeError(f"RHVoice did not start (data {data})")

    def _declare(self, name: str, result: Any, *arguments: Any) -> None:
        function: Callable[..., Any] = getattr(self._lib, name)
        function.restype, function.argtypes = result, arguments  # type: ignore[attr-defined]

    def _set_rate(self, rate: int, _: Any) -> int:
        self._fs = rate
        return 1

    def _play(self, samples: Any, count: int, _: Any) -> int:
        self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 1

    def speak(self, text: str, voice: str, speed: float, pitch: float) -> tuple[int, np.ndarray]:
        self._chunks.clear()
        octets = text.encode()
        params = _SynthParams(voice.encode(), 0, 0, 0, speed, pitch, 1, 0, None, 0, 0)
        message = self._lib.RHVoice_new_message(self._engine, octets, len(octets), 0, ctypes.byref(params), None)
        if not message:
            raise RuntimeError(f"RHVoice refused the text {text!r} for {voice}")
        try:
            if not self._lib.RHVoice_speak(message):
                raise RuntimeError(f"RHVoice failed on {text!r} as {voice}")
        finally:
            self._lib.RHVoice_delete_message(message)
        return self._fs, np.concatenate(self._chunks) if self._chunks else np.empty(0, np.int16)
