"""Miniatures of published corpora: their exact layout on disk, with a few synthesised sentences.

    python local/miniature.py --corpus europarl_st --corpus_dir smoke/corpus

The sentences are the mini corpus' (:mod:`local.mini.grammar`: German, French, Italian and English, parallel), spoken by
espeak-ng. With them a recipe's ``--scale smoke`` and the tests run every stage without any download; scores mean
nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: find local.mini

from espnet_gated.data import ffmpeg  # noqa: E402
from local.manifests.languages import ISO_639_1  # noqa: E402
from local.mini import grammar, synth  # noqa: E402
from local.mini.grammar import Sentence  # noqa: E402
from local.mini.synth import FS  # noqa: E402

STAMP = ".miniature.json"
PAUSE = 0.35  # seconds between two sentences of a recording
TALK = 4  # sentences in a recording
VOICES = {**synth.ESPEAK_VOICES, "eng": "en-us"}
FLEURS_NAME = {"deu": "de_de", "eng": "en_us", "fra": "fr_fr", "ita": "it_it"}

Sizes = Mapping[str, int]
SIZES: Sizes = {"train": 24, "dev": 6, "test": 6}  # sentences of each language


@dataclass(frozen=True)
class Talk:
    """A recording of several sentences by one speaker.

    Attributes:
        number: counts the talks of a set; the same number says the same sentences in every language.
        lang: spoken language.
        samples: (T,) at 16 kHz.
        spans: start and end of each sentence, seconds.
        sentences: what is said.
    """

    number: int
    lang: str
    samples: NDArray[np.float32]
    spans: list[tuple[float, float]]
    sentences: list[Sentence]

    def lines(self, lang: str) -> list[str]:
        """The sentences in a language."""
        return [sentence.in_language(lang) for sentence in self.sentences]


class Speakers:
    """Draws sentences and speaks them; a seed decides all."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        self._rng = random.Random(seed)
        self._variants = synth.split_voices().train
        drawn: dict[str, Sentence] = {}
        while len(drawn) < sum(sizes.values()):
            sentence = grammar.sample(self._rng)
            drawn.setdefault(sentence.eng, sentence)
        rest = iter(drawn.values())
        self.sentences = {name: [next(rest) for _ in range(size)] for name, size in sizes.items()}

    def say(self, sentence: Sentence, lang: str, variant: str | None = None) -> NDArray[np.float32]:
        """One sentence, (T,) at 16 kHz."""
        variants = [variant or self._rng.choice(self._variants)]
        speech = synth.draw_speech(Path(), lang, sentence.in_language(lang), variants, self._rng)
        synth.ESPEAK_VOICES.setdefault(lang, VOICES[lang])  # the mini corpus speaks no English
        return synth.render(_espeak(), speech)

    def talks(self, name: str, lang: str) -> Iterator[Talk]:
        """The sentences of a set as recordings of a few sentences each."""
        sentences = self.sentences[name]
        silence = np.zeros(round(PAUSE * FS), dtype=np.float32)
        for number, first in enumerate(range(0, len(sentences), TALK)):
            said = sentences[first : first + TALK]
            variant = self._rng.choice(self._variants)
            parts, spans, length = [silence], [], len(silence)
            for sentence in said:
                samples = self.say(sentence, lang, variant)
                parts += [samples, silence]
                spans.append((length / FS, (length + len(samples)) / FS))
                length += len(samples) + len(silence)
            yield Talk(number, lang, np.concatenate(parts), spans, said)


@lru_cache(maxsize=1)
def _espeak() -> synth.Espeak:
    return synth.Espeak(seed=0)


# -- one function for each corpus --------------------------------------------------------------------------------------
def europarl_st(root: Path, speakers: Speakers, pairs: Sequence[tuple[str, str]]) -> None:
    """``v1.1/<src>/audios/*.m4a`` and ``v1.1/<src>/<tgt>/<set>/{segments,speeches,speakers,url}.*``."""
    for source in dict.fromkeys(source for source, _ in pairs):
        home = root / "v1.1" / ISO_639_1[source]
        for day, name in enumerate(speakers.sentences, start=1):
            talks = list(speakers.talks(name, source))
            names = [f"{ISO_639_1[source]}.200809{day:02d}.{talk.number}.3-{100 + talk.number}" for talk in talks]
            for talk, speech in zip(talks, names, strict=True):
                write_audio(home / "audios" / f"{speech}.m4a", talk.samples, 44100, channels=2)
            for target in (target for lang, target in pairs if lang == source):
                folder = home / ISO_639_1[target] / name
                times = [f"{s} {a:.2f} {b:.2f}" for s, t in zip(names, talks, strict=True) for a, b in t.spans]
                write_lines(folder / "segments.lst", times)
                write_lines(folder / "speeches.lst", names)
                write_lines(folder / "speakers.lst", [f"spk_{day}{talk.number}" for talk in talks])
                write_lines(folder / "url.lst", [f"https://example.org/{speech}" for speech in names])
                for lang in (source, target):
                    code = ISO_639_1[lang]
                    write_lines(folder / f"segments.{code}", [line for talk in talks for line in talk.lines(lang)])
                    write_lines(folder / f"speeches.{code}", [" ".join(talk.lines(lang)) for talk in talks])


def fleurs(root: Path, speakers: Speakers, pairs: Sequence[tuple[str, str]]) -> None:
    """``fleurs/<language>/<set>/*.wav`` and ``fleurs/metadata/<language>/<set>.tsv``, as lhotse downloads them.

    The first sentence of each set is read by two people; the last one of training is missing in the last language.
    Files of several languages have the same names.
    """
    langs = sorted({lang for pair in pairs for lang in pair})
    for lang in langs:
        number = 100
        for name, sentences in speakers.sentences.items():
            rows = []
            for place, sentence in enumerate(sentences):
                number += 1
                if name == "train" and place == len(sentences) - 1 and lang == langs[-1]:
                    continue
                for reader in range(2 if place == 0 else 1):
                    samples = speakers.say(sentence, lang)
                    file = f"{number}{reader}1408772.wav"  # the same in all languages
                    write_audio(root / "fleurs" / FLEURS_NAME[lang] / name / file, samples, FS)
                    raw = sentence.in_language(lang)
                    plain = raw.lower().rstrip(".?")
                    chars = " ".join("|".join(plain.split())) + " |"
                    rows.append("\t".join([str(number), file, raw, plain, chars, str(len(samples)), "FEMALE"]))
            write_lines(root / "fleurs" / "metadata" / FLEURS_NAME[lang] / f"{name}.tsv", rows)


def mtedx(root: Path, speakers: Speakers, pairs: Sequence[tuple[str, str]]) -> None:
    """``<src>-<tgt>/data/<set>/{wav/*.flac,vtt/*.vtt,txt/<set>.{yaml,<lang>}}``, for ASR with ``<tgt>`` = ``<src>``."""
    for source in dict.fromkeys(source for source, _ in pairs):
        targets = [target for lang, target in pairs if lang == source]
        for name in speakers.sentences:
            split = "valid" if name == "dev" else name
            talks = list(speakers.talks(name, source))
            names = [f"{ISO_639_1[source]}_{split[:2]}Talk-{talk.number}" for talk in talks]
            for target in (source, *targets):
                folder = root / f"{ISO_639_1[source]}-{ISO_639_1[target]}" / "data" / split
                _ted_texts(folder / "txt", split, talks, names, names, (source, target))
                for talk, talk_name in zip(talks, names, strict=True):
                    write_audio(folder / "wav" / f"{talk_name}.flac", talk.samples, 48000)
                    for lang in {source, target}:
                        code = ISO_639_1[lang]
                        head = f"WEBVTT\nKind: captions\nLanguage: {code}\n"
                        # lhotse passes over the first block after the head
                        cues = [(0.0, 0.1, "♪ (Musica) ♪")]
                        cues += [(*span, line) for span, line in zip(talk.spans, talk.lines(lang), strict=True)]
                        blocks = [f"{_clock(start)} --> {_clock(end)}\n{line}\n" for start, end, line in cues]
                        write_lines(folder / "vtt" / f"{talk_name}.{code}.vtt", [head, *blocks])


def must_c(root: Path, speakers: Speakers, pairs: Sequence[tuple[str, str]]) -> None:
    """``en-<tgt>/data/<set>/{wav/ted_*.wav,txt/<set>.{yaml,en,<tgt>}}``; ``tst-COMMON`` is the test set."""
    first = 0
    for name in speakers.sentences:
        talks = list(speakers.talks(name, "eng"))
        names = [f"ted_{first + talk.number}" for talk in talks]
        for _, target in pairs:
            for split in ("tst-COMMON", "tst-HE") if name == "test" else (name,):
                folder = root / f"en-{ISO_639_1[target]}" / "data" / split
                # the second test set: other talks, here the same under other names
                called = [f"{talk_name}9" for talk_name in names] if split == "tst-HE" else names
                spoken_by = [f"spk.{talk_name.removeprefix('ted_')}" for talk_name in called]
                _ted_texts(folder / "txt", split, talks, called, spoken_by, ("eng", target))
                for talk, talk_name in zip(talks, called, strict=True):
                    write_audio(folder / "wav" / f"{talk_name}.wav", talk.samples, FS)
        first += len(talks)


WRITERS: dict[str, Callable[[Path, Speakers, Sequence[tuple[str, str]]], None]] = {
    "europarl_st": europarl_st,
    "fleurs": fleurs,
    "mtedx": mtedx,
    "must_c": must_c,
}
PAIRS = {
    "europarl_st": (("deu", "eng"), ("fra", "eng"), ("ita", "eng")),
    "fleurs": (("deu", "eng"), ("fra", "ita")),
    "mtedx": (("fra", "eng"), ("ita", "eng")),
    "must_c": (("eng", "deu"), ("eng", "fra")),
}


def write_miniature(
    corpus: str,
    corpus_dir: str | Path,
    pairs: Sequence[tuple[str, str]] | None = None,
    sizes: Sizes = SIZES,
    seed: int = 0,
) -> None:
    """Write a miniature, all of it or nothing; one that is there already is kept.

    Args:
        corpus: one of ``WRITERS``.
        corpus_dir: what the corpus' preparation takes by this name.
        pairs: (source, target) languages; for FLEURS, all languages named.
        sizes: sentences of each language in ``train``, ``dev`` and ``test``.
        seed: of sentences, voices and manner of speaking.

    Raises:
        ValueError: for an unknown corpus, or a place that holds something else.
        MissingDecoderError: if Europarl-ST's m4a cannot be written for want of the program ffmpeg.
    """
    if corpus not in WRITERS:
        raise ValueError(f"corpus must be one of {', '.join(WRITERS)}, got {corpus!r} (--corpus)")
    corpus_dir, pairs = Path(corpus_dir), list(pairs or PAIRS[corpus])
    made_from = json.dumps({"corpus": corpus, "pairs": pairs, "sizes": dict(sizes), "seed": seed})
    stamp = corpus_dir / STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == made_from:
        return
    if corpus_dir.is_dir() and any(corpus_dir.iterdir()) and not stamp.is_file():
        raise ValueError(f"{corpus_dir}: holds something else, and would be overwritten (--corpus_dir)")
    corpus_dir.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=f".{corpus_dir.name}.new-", dir=corpus_dir.parent))
    try:
        WRITERS[corpus](temp, Speakers(sizes, seed), pairs)
        (temp / STAMP).write_text(made_from, encoding="utf-8")
        temp.chmod(0o755)
        shutil.rmtree(corpus_dir, ignore_errors=True)
        temp.rename(corpus_dir)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


# -- files -------------------------------------------------------------------------------------------------------------
def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write lines, making the folders above."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_audio(file: Path, samples: NDArray[np.float32], rate: int, channels: int = 1) -> None:
    """Write 16 kHz ``samples`` at another rate, in the format of the file's suffix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    common = np.gcd(rate, FS)
    samples = resample_poly(samples, rate // common, FS // common).astype(np.float32)
    if file.suffix != ".m4a":
        soundfile.write(file, np.stack([samples] * channels, axis=1), rate, subtype="PCM_16")
        return
    program = ffmpeg.find_program()
    if program is None:
        raise ffmpeg.MissingDecoderError(f"{file}: writing m4a needs the program ffmpeg: pip install imageio-ffmpeg")
    command = [program, "-v", "error", "-f", "f32le", "-ar", str(rate), "-ac", "1", "-i", "-"]
    command += ["-ac", str(channels), "-c:a", "aac", "-b:a", "96k", str(file)]
    subprocess.run(command, input=samples.tobytes(), check=True)


def _ted_texts(
    folder: Path,
    split: str,
    talks: Sequence[Talk],
    names: Sequence[str],
    speakers: Sequence[str],
    langs: tuple[str, str],
) -> None:
    """``<split>.yaml`` and a file of lines for each language."""
    rows = [
        f"- {{duration: {end - start:.6f}, offset: {start:.6f}, rW: 4, uW: 0, speaker_id: {speaker}, wav: {name}.wav}}"
        for talk, name, speaker in zip(talks, names, speakers, strict=True)
        for start, end in talk.spans
    ]
    write_lines(folder / f"{split}.yaml", rows)
    for lang in langs:
        write_lines(folder / f"{split}.{ISO_639_1[lang]}", [line for talk in talks for line in talk.lines(lang)])


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600):02d}:{int(seconds // 60 % 60):02d}:{seconds % 60:06.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of :func:`write_miniature`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", required=True, choices=sorted(WRITERS))
    parser.add_argument("--corpus_dir", required=True, help="where it is written")
    parser.add_argument("--seed", type=int, default=0, help="of sentences, voices and manner")
    try:
        write_miniature(**vars(parser.parse_args(arguments)))
    except (ValueError, OSError, ffmpeg.MissingDecoderError) as error:
        print(f"miniature: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
