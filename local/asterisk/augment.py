"""More to train on, from the training prompts alone: other speeds, prompts in a row, synthesised voices.

Each function gives recordings like any other (with prompts of made-up names where the words are new) and keeps out of
the held-out sets: a text that a development or test prompt has is never made.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from local.asterisk import guide, natural
from local.asterisk.audio import SAMPLE_RATE
from local.asterisk.corpus import Limits, Recording, Voice
from local.asterisk.split import normalise
from local.mini import synth

Texts = dict[str, dict[str, str]]  # language -> prompt name -> text

GAP_SECONDS = (0.05, 0.3)  # between prompts in a row
MAX_SPAN_WORDS = 8
SPEAKING_RATE = (140, 210)  # words per minute of the synthesiser; prompts are read slowly


@dataclass(frozen=True)
class Augmentation:
    """How much to add to the training set.

    Attributes:
        speeds: factors at which every real recording is played as well.
        joined: rows of two or three short real prompts, for each voice.
        voices: synthesised readings of every prompt.
        spans: synthesised pieces of prompts of one to eight words, in each language.
        guide: synthesised pieces of Debian's installation guide of two to eight words, in each language.
        natural: share of what is synthesised that speaks with voices trained on people; the rest is espeak-ng's.
    """

    speeds: tuple[float, ...] = ()
    joined: int = 0
    voices: int = 0
    spans: int = 0
    guide: int = 0
    natural: float = 0.0

    def __post_init__(self) -> None:
        for speed in self.speeds:
            if not 0.5 <= speed <= 2.0 or speed == 1.0:
                raise ValueError(f"speeds must be in [0.5, 2] and not 1, got {speed}")
        for name in ("joined", "voices", "spans", "guide"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.natural <= 1:
            raise ValueError(f"natural must be in [0, 1], got {self.natural}")

    @property
    def packages(self) -> tuple[str, ...]:
        """Names of what has to be fetched for it (:data:`local.asterisk.packages.PINNED`)."""
        text = (guide.PACKAGE,) if self.guide else ()
        return text + (natural.PACKAGES if self.natural else ())


@dataclass
class Augmented:
    """Recordings that were made, and the texts of the prompts that were made up (with all others)."""

    recordings: list[Recording]
    texts: Texts


@dataclass
class Augmenter:
    """Makes the additions of one training set.

    Args:
        texts: language -> prompt name -> text, of all prompts.
        held_out: names of the prompts that are not for training.
        folder: for the audio.
        limits: lengths that are kept.
        seed: of every choice.
        workers: processes of the synthesisers.
        packages: root of the tree that holds what :attr:`Augmentation.packages` names.
    """

    texts: Mapping[str, Mapping[str, str]]
    held_out: Collection[str]
    folder: Path
    limits: Limits
    seed: int = 0
    workers: int = 1
    packages: Path = Path()
    _forbidden: dict[str, set[str]] = field(init=False)

    def __post_init__(self) -> None:
        self._forbidden = {
            lang: {normalise(text) for name, text in by_name.items() if name in self.held_out}
            for lang, by_name in self.texts.items()
        }

    def augment(self, recordings: Sequence[Recording], how: Augmentation) -> Augmented:
        """Make everything that ``how`` asks for.

        Args:
            recordings: the real ones of the training set.
            how: how much.
        """
        made = Augmented([], {lang: dict(by_name) for lang, by_name in self.texts.items()})
        for speed in how.speeds:
            made.recordings += [self._at_speed(recording, speed) for recording in recordings]
        for voice in sorted({recording.voice for recording in recordings}, key=lambda voice: voice.spk):
            own = [recording for recording in recordings if recording.voice == voice]
            made.recordings += self._joined(own, how.joined, made.texts)
        made.recordings += self._synthesised(how, made.texts)
        made.recordings = [
            one for one in made.recordings if self.limits.min_seconds <= one.seconds <= self.limits.max_seconds
        ]
        return made

    def _rng(self, *what: object) -> random.Random:
        return random.Random(f"{self.seed}:{what}")

    def _allowed(self, lang: str, text: str) -> bool:
        return normalise(text) not in self._forbidden[lang]

    # -- real voices ------------------------------------------------------------------------------
    def _at_speed(self, recording: Recording, speed: float) -> Recording:
        """ESPnet's speed perturbation: faster and higher, or slower and lower; another speaker, ``sp0.9-…``."""
        voice = replace(recording.voice, spk=f"sp{speed}-{recording.voice.spk}")
        flac = self.folder / voice.spk / f"{recording.name}.flac"
        if not flac.is_file():
            samples = torch.from_numpy(_read(recording.flac))
            _write(flac, torchaudio.functional.speed(samples, SAMPLE_RATE, speed)[0].numpy())
        return Recording(voice, recording.name, flac, soundfile.info(flac).frames)

    def _joined(self, own: Sequence[Recording], number: int, texts: Texts) -> list[Recording]:
        """Rows of short prompts of one voice; their texts in all languages are those of the parts in a row."""
        voice = own[0].voice
        rng = self._rng("joined", voice.spk)
        short = [recording for recording in own if recording.seconds < 0.6 * self.limits.max_seconds]
        made = []
        for count in range(number if len(short) > 2 else 0):
            parts = rng.sample(short, rng.choice((2, 2, 3)))
            gaps = [rng.uniform(*GAP_SECONDS) for _ in parts[1:]]
            if sum(part.seconds for part in parts) + sum(gaps) > self.limits.max_seconds:
                continue
            rows = {
                lang: " ".join(by_name[part.name] for part in parts)
                for lang, by_name in self.texts.items()
                if all(part.name in by_name for part in parts)
            }
            if not all(self._allowed(lang, text) for lang, text in rows.items()):
                continue
            name = f"joined/{voice.lang}{count:05d}"
            for lang, text in rows.items():
                texts[lang][name] = text
            key = hashlib.sha256(repr(([part.name for part in parts], gaps)).encode()).hexdigest()[:12]
            flac = self.folder / "joined" / voice.spk / f"{key}.flac"
            if not flac.is_file():
                _write(flac, _in_a_row([_read(part.flac) for part in parts], gaps))
            made.append(Recording(voice, name, flac, soundfile.info(flac).frames))
        return made

    # -- synthesised voices -----------------------------------------------------------------------
    def _synthesised(self, how: Augmentation, texts: Texts) -> list[Recording]:
        """Every training prompt in ``how.voices`` voices, and pieces of prompts and of the guide, in each language."""
        espeak = synth.split_voices().train
        wanted: list[tuple[str, str, synth.Speech]] = []
        for lang, by_name in self.texts.items():
            training = {name: text for name, text in by_name.items() if name not in self.held_out}
            pieces = list(self._pieces(lang, list(training.values()), how))
            texts[lang].update(pieces)
            rng = self._rng("voices", lang)
            for name, text in [*sorted(training.items()) * how.voices, *pieces]:
                path = Path(lang) / f"{len(wanted):06d}.wav"
                variants = natural.voices(lang) if rng.random() < how.natural else espeak
                speech = synth.draw_speech(path, lang, text, variants, rng)
                wanted.append((lang, name, replace(speech, rate=rng.randint(*SPEAKING_RATE))))
        if not wanted:
            return []
        key = hashlib.sha256(repr([(speech, name) for _, name, speech in wanted]).encode()).hexdigest()[:12]
        folder = self.folder / f"synthesised-{key}"  # other wishes never meet these files
        speeches = [replace(speech, path=folder / speech.path) for _, _, speech in wanted]
        lengths = self._speak(speeches)
        made = []
        for (lang, name, _), speech, length in zip(wanted, speeches, lengths, strict=True):
            spk = f"synth{speech.path.stem}_{lang}_{speech.variant.replace(':', '_')}"
            made.append(Recording(Voice(spk, lang, "", "", official=False, real=False), name, speech.path, length))
        return made

    def _speak(self, speeches: Sequence[synth.Speech]) -> list[int]:
        """Lengths in samples; each engine speaks its own."""
        mine = [natural.is_natural(speech.variant) for speech in speeches]
        by_rule = iter(synth.synthesize((s for s, own in zip(speeches, mine, strict=True) if not own), self.workers))
        start = partial(natural.Natural, self.packages)
        learnt = iter(
            synth.synthesize(
                (s for s, own in zip(speeches, mine, strict=True) if own), self.workers, start, "Pico, RHVoice"
            )
        )
        return [next(learnt if own else by_rule) for own in mine]

    def _pieces(self, lang: str, prompts: Sequence[str], how: Augmentation) -> Iterable[tuple[str, str]]:
        yield from self._spans(lang, [text.split() for text in prompts], how.spans, "span", 1)
        if how.guide:
            yield from self._spans(lang, guide.read_guide(self.packages, lang), how.guide, "guide", 2)

    def _spans(
        self, lang: str, texts: Sequence[Sequence[str]], number: int, kind: str, shortest: int
    ) -> Iterable[tuple[str, str]]:
        rng = self._rng(kind + "s", lang)
        for count in range(number if texts else 0):
            words = rng.choice(texts)
            length = rng.randint(min(shortest, len(words)), min(MAX_SPAN_WORDS, len(words)))
            start = rng.randint(0, len(words) - length)
            text = " ".join(words[start : start + length]).strip(" ,;:-")
            if any(char.isalpha() for char in text) and self._allowed(lang, text):
                yield f"{kind}/{lang}{count:05d}", text


def _read(file: Path) -> np.ndarray:
    samples, _ = soundfile.read(file, dtype="float32")
    return np.asarray(samples)


def _in_a_row(parts: Sequence[np.ndarray], gaps: Sequence[float]) -> np.ndarray:
    pieces = [parts[0]]
    for gap, part in zip(gaps, parts[1:], strict=True):
        pieces += [np.zeros(int(gap * SAMPLE_RATE), dtype=np.float32), part]
    return np.concatenate(pieces)


def _write(flac: Path, samples: np.ndarray) -> None:
    """Write 16 kHz FLAC whole or not at all."""
    flac.parent.mkdir(parents=True, exist_ok=True)
    partial = flac.with_suffix(".tmp")
    try:
        soundfile.write(partial, samples, SAMPLE_RATE, format="FLAC")
        partial.replace(flac)
    finally:
        partial.unlink(missing_ok=True)
