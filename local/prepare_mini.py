"""Prepare the mini corpus: German, French and Italian sentences of a small grammar, spoken by espeak-ng.

    python local/prepare_mini.py --data_dir data --audio_dir downloads/mini --scale full

writes the ESPnet data directories ``train``, ``dev`` and ``test`` under ``data_dir``; each audio file serves two
utterances, ASR and speech translation into English.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: find local.mini

from espnet_gated.data.datadir import Utterance, read_table, write_data_dir  # noqa: E402
from local.mini import grammar, lexicon, synth  # noqa: E402
from local.mini.grammar import Sentence  # noqa: E402
from local.mini.synth import FS, Speech, VoiceSplit  # noqa: E402

SOURCE_LANGS = ("deu", "fra", "ita")
SETS = ("train", "dev", "test")
LARGE_TEST = "test_large"
STAMP = "mini.json"
MAX_SECONDS = 2.3  # training windows are 2.4 s: whatever is padded is computed


@dataclass(frozen=True)
class Scale:
    """Sentences per language and set; dev and test sentences are the same in all languages."""

    train: int
    dev: int
    test: int


SCALES = {"full": Scale(train=8000, dev=40, test=120), "smoke": Scale(train=60, dev=6, test=6)}


@dataclass(frozen=True)
class Item:
    """A sentence, the speech that says it in one language, and its set."""

    set_name: str
    sentence: Sentence
    speech: Speech

    @property
    def speaker(self) -> str:
        """Language and voice: the same variant speaks each language with another accent."""
        return f"{self.speech.lang}_{self.speech.variant}"

    def utterances(self, num_samples: int) -> Iterator[Utterance]:
        """Yield the ASR and the translation utterance of this audio file."""
        source = self.sentence.in_language(self.speech.lang)
        for task, text in (("asr", source), ("st_eng", self.sentence.eng)):
            yield Utterance(
                utt_id=f"{self.speaker}-{self.speech.path.stem}-{task}",
                wav=str(self.speech.path),
                spk=self.speaker,
                lang=self.speech.lang,
                task=task,
                text=text,
                text_ctc=source,
                num_samples=num_samples,
            )


def draw_sentences(scale: Scale, rng: random.Random) -> dict[str, dict[str, list[Sentence]]]:
    """Return set -> language -> sentences; no text of a dev or test sentence occurs in another set."""
    held: set[str] = set()

    def fresh() -> Sentence:
        while True:
            sentence = grammar.sample(rng)
            texts = {sentence.in_language(lang) for lang in lexicon.LANGS}
            if not texts & held:
                held.update(texts)
                return sentence

    test = [fresh() for _ in range(scale.test)]
    dev = [fresh() for _ in range(scale.dev)]

    def unheld() -> Sentence:  # training may say a sentence twice, in another voice
        while True:
            sentence = grammar.sample(rng)
            if not any(sentence.in_language(lang) in held for lang in lexicon.LANGS):
                return sentence

    train = {lang: [unheld() for _ in range(scale.train)] for lang in SOURCE_LANGS}
    return {
        "train": train,
        "dev": dict.fromkeys(SOURCE_LANGS, dev),
        "test": dict.fromkeys(SOURCE_LANGS, test),
    }


def draw_items(audio_dir: Path, scale: Scale, voices: VoiceSplit, seed: int) -> list[Item]:
    """Draw sentences, voices and manners of speaking; the same ``seed`` gives the same items."""
    rng = random.Random(seed)
    sentences = draw_sentences(scale, rng)
    items = []
    for set_name in SETS:
        items += speak(audio_dir, set_name, sentences[set_name], getattr(voices, set_name), rng)
    return items


def speak(
    audio_dir: Path,
    set_name: str,
    sentences: Mapping[str, Sequence[Sentence]],
    variants: Sequence[str],
    rng: random.Random,
) -> list[Item]:
    """Draw a voice and a manner of speaking for each sentence of each language of a set."""
    items = []
    for lang in SOURCE_LANGS:
        for number, sentence in enumerate(sentences[lang]):
            path = audio_dir / set_name / lang / f"{set_name}{number:05d}.wav"
            speech = synth.draw_speech(path, lang, sentence.in_language(lang), variants, rng)
            items.append(Item(set_name, sentence, speech))
    return items


def draw_large_test(audio_dir: Path, known: Sequence[Item], number: int, voices: VoiceSplit, seed: int) -> list[Item]:
    """Draw a second test set: the test voices, and sentences none of which occurs in the sets that are ``known``.

    Args:
        audio_dir: where its wav files go.
        known: the items of the other sets; drawn beforehand, so that they are what they are without this set.
        number: of sentences a language; the same in all.
    """
    rng = random.Random(f"{LARGE_TEST} {seed}")
    held = {(lang, item.sentence.in_language(lang)) for item in known for lang in lexicon.LANGS}
    drawn: list[Sentence] = []
    while len(drawn) < number:
        sentence = grammar.sample(rng)
        texts = {(lang, sentence.in_language(lang)) for lang in lexicon.LANGS}
        if not texts & held:
            held |= texts
            drawn.append(sentence)
    return speak(audio_dir, LARGE_TEST, dict.fromkeys(SOURCE_LANGS, drawn), voices.test, rng)


def fingerprint(*what: object) -> str:
    """Return a short hash of what decides a corpus (scale, seed) and the code of grammar and synthesis."""
    digest = hashlib.sha256(repr(what).encode())
    for file in (lexicon.__file__, grammar.__file__, synth.__file__, __file__):
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
        digest.update(ast.dump(tree).encode())  # the tree: comments and line breaks change no sound
    return digest.hexdigest()[:12]


def prepare_mini(
    data_dir: str | Path,
    audio_dir: str | Path,
    scale: str = "full",
    seed: int = 0,
    workers: int = 2,
    large_test: int = 0,
) -> None:
    """Write ``train``, ``dev`` and ``test`` data directories of the mini corpus.

    Args:
        data_dir: where the data directories go.
        audio_dir: where the wav files go; their paths are written as absolute ones.
        scale: ``full`` (24,000 training sentences, about 10 hours) or ``smoke`` (180).
        seed: of sentences, voices and manner; the voice split itself is fixed.
        workers: processes that speak.
        large_test: sentences of a second test set, ``test_large``, in each language; 0: none.

    Raises:
        ValueError: for an unknown ``scale`` or a negative ``large_test``.
        RuntimeError: where espeak-ng fails.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {sorted(SCALES)}, got {scale!r} (--scale)")
    if large_test < 0:
        raise ValueError(f"large_test must be a number of sentences, 0 or more, got {large_test} (--large_test)")
    audio, voices = Path(audio_dir).resolve(), synth.split_voices()
    mark = {"scale": scale, "seed": seed, "fingerprint": fingerprint(SCALES[scale], seed), "audio": str(audio)}
    # the fingerprint in the path: a changed grammar never meets audio of the old one
    audio /= f"{scale}-{mark['fingerprint']}"
    draw = partial(draw_items, audio, SCALES[scale], voices, seed)
    _write_sets(Path(data_dir), STAMP, mark, SETS, draw, workers)
    if large_test:
        more = {**mark, "sentences": large_test}
        draw_more = lambda: draw_large_test(audio / str(large_test), draw(), large_test, voices, seed)  # noqa: E731
        _write_sets(Path(data_dir), f"{LARGE_TEST}.json", more, (LARGE_TEST,), draw_more, workers)


def _write_sets(
    data_dir: Path,
    stamp_name: str,
    mark: dict[str, object],
    sets: Sequence[str],
    draw: Callable[[], list[Item]],
    workers: int,
) -> None:
    """Speak what is drawn and write its sets, unless the stamp says that this is done."""
    stamp = data_dir / stamp_name
    if _is_done(stamp, mark, sets):
        print(f"{data_dir}: already prepared ({stamp_name}), nothing to do")
        return
    stamp.unlink(missing_ok=True)
    items = draw()
    lengths = synth.synthesize([item.speech for item in items], workers)
    summary = {}
    for set_name in sets:
        mine = [(i, n) for i, n in zip(items, lengths, strict=True) if i.set_name == set_name]
        kept = [(i, n) for i, n in mine if n <= MAX_SECONDS * FS]
        write_data_dir(data_dir / set_name, [u for i, n in kept for u in i.utterances(n)])
        hours = sum(n for _, n in kept) / FS / 3600
        summary[set_name] = {
            "audio_files": len(kept),
            "dropped_too_long": len(mine) - len(kept),
            "hours": round(hours, 3),
        }
        print(f"{data_dir / set_name}: {summary[set_name]}")
    temp = stamp.with_name(f".{stamp.name}.tmp")
    temp.write_text(json.dumps({**mark, "sets": summary}, indent=2) + "\n", encoding="utf-8")
    os.replace(temp, stamp)


def _is_done(stamp: Path, mark: dict[str, object], sets: Sequence[str]) -> bool:
    """Whether a whole stamp says so, and the sets and their audio are there."""
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict) or not found.items() >= mark.items():
        return False
    for folder in (stamp.parent / name for name in sets):
        if not all((folder / name).is_file() for name in ("text", "wav.scp")):
            return False
        if not all(Path(wav).is_file() for _, wav in read_table(folder / "wav.scp")[0].values()):
            return False
    return True


def main() -> None:
    """Command line of :func:`prepare_mini`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="where the data directories go")
    parser.add_argument("--audio_dir", required=True, help="where the wav files go")
    parser.add_argument("--scale", default="full", choices=sorted(SCALES), help="size")
    parser.add_argument("--seed", type=int, default=0, help="of sentences, voices and manner")
    parser.add_argument("--large_test", type=int, default=0, help="sentences of a second test set in each language")
    parser.add_argument("--workers", type=int, default=2, help="processes that speak")
    prepare_mini(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
