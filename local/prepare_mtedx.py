"""Multilingual TEDx as ESPnet S2T data: TEDx talks in eight languages, ASR and translation.

    python local/prepare_mtedx.py --corpus_dir downloads/mtedx --data_dir data --audio_dir downloads/16k --langs spa fra

writes ``data/{train,dev,test}``: ASR through lhotse's recipe, translations from the corpora of language pairs, which it
does not read. With ``--download`` both are fetched first.
"""

from __future__ import annotations

import sys
import tarfile
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: find local.manifests

from lhotse.recipes import mtedx  # noqa: E402
from lhotse.utils import resumable_download, safe_extract  # noqa: E402

from local.manifests.cli import CHOICES, run  # noqa: E402
from local.manifests.datadirs import Places, prepare  # noqa: E402
from local.manifests.languages import ISO_639_1, check_langs  # noqa: E402
from local.manifests.segments import Manifests, Sets, canonical, join  # noqa: E402
from local.manifests.ted import TimedText, read_pair, untrimmed  # noqa: E402
from local.pairs import parse_pairs  # noqa: E402

URL = "https://www.openslr.org/resources/100"
SETS = {"train": "train", "dev": "valid", "test": "test"}
LANGS = tuple(lang for lang, code in ISO_639_1.items() if code in mtedx.ISOCODE2LANG)
TARGETS = (*LANGS, "eng")
NO_CASED = "no cased line at its seconds"
ENOUGH = 0.9  # of the segments must be found in the cased files, or these are others


def prepare_mtedx(
    corpus_dir: str | Path,
    data_dir: str | Path,
    audio_dir: str | Path,
    langs: Sequence[str] = ("spa", "fra", "por", "ita"),
    st_pairs: Sequence[str] = ("all-eng",),
    min_seconds: float = 0.1,
    max_seconds: float = 30.0,
    audio_format: str = "flac",
    nj: int = 1,
    text: str = "cased",
    download: bool = False,
) -> dict[str, Any]:
    """Write ``train``, ``dev`` and ``test``.

    Args:
        corpus_dir: holds ``<src>-<src>`` (ASR) and ``<src>-<tgt>`` (translation), or ``mtedx_corpus`` with them.
        data_dir: gets the data directories.
        audio_dir: gets the audio of the segments.
        langs: spoken languages (ISO 639-3).
        st_pairs: translations, ``source-target``; ``all`` stands for every spoken language.
        min_seconds, max_seconds: shorter and longer segments are left out.
        audio_format: ``flac`` or ``wav``.
        nj: threads and processes.
        text: of ASR: ``cased`` (with punctuation, looked up beside lhotse's segments) or ``normalised`` (lhotse's:
            lower case, without punctuation).
        download: fetch what is needed into ``corpus_dir`` first.

    Returns, Raises:
        As :func:`local.manifests.datadirs.prepare`.
    """
    langs = check_langs(langs, LANGS)
    pairs = parse_pairs(st_pairs, langs, TARGETS)
    if text not in CHOICES["text"]:
        raise ValueError(f"text must be one of {', '.join(CHOICES['text'])}, got {text!r} (--text)")
    if download:
        mtedx.download_mtedx(corpus_dir, [ISO_639_1[lang] for lang in langs])
        download_pairs(Path(corpus_dir) / "mtedx_corpus", pairs)
    places = Places(Path(corpus_dir), Path(data_dir), Path(audio_dir), min_seconds, max_seconds, audio_format, nj)

    def read() -> tuple[Sets, dict[str, Counter[str]]]:
        root = find_root(places.corpus_dir, langs, pairs)
        spoken = mtedx.prepare_mtedx(root, places.manifests, [ISO_639_1[lang] for lang in langs], num_jobs=nj)
        sets, dropped = {}, {}
        for name, split in SETS.items():
            reasons: Counter[str] = Counter()
            parts = [_asr(spoken[ISO_639_1[lang]][split], root, lang, split, text, reasons) for lang in langs]
            parts += [_translated(root, source, target, split, reasons) for source, target in sorted(pairs)]
            sets[name], found = join(parts)
            dropped[name] = reasons + found
        return sets, dropped

    return prepare("mtedx", places, pairs, {"langs": langs, "text": text}, read)


def download_pairs(target_dir: Path, pairs: Collection[tuple[str, str]]) -> None:
    """Fetch the corpora of language pairs, as lhotse does those of single languages."""
    target_dir.mkdir(parents=True, exist_ok=True)
    for source, target in sorted(pairs):
        pair = f"{ISO_639_1[source]}-{ISO_639_1[target]}"
        done = target_dir / f".{pair}.completed"
        if not done.is_file():
            archive = target_dir / f"{pair}.tgz"
            resumable_download(f"{URL}/mtedx_{pair}.tgz", filename=archive)
            with tarfile.open(archive) as tar:
                safe_extract(tar, path=target_dir)
            done.touch()


def find_root(corpus_dir: Path, langs: Sequence[str], pairs: Collection[tuple[str, str]]) -> Path:
    """The directory that holds the languages: ``corpus_dir`` or its ``mtedx_corpus``.

    Raises:
        ValueError: naming the first corpus that is missing (lhotse would pass over it).
    """
    root = corpus_dir / "mtedx_corpus"
    root = root if root.is_dir() else corpus_dir
    for source, target in [*((lang, lang) for lang in langs), *sorted(pairs)]:
        data = _data(root, source, target)
        if not data.is_dir():
            raise ValueError(f"{data}: no such directory (--corpus_dir, --langs, --st_pairs)")
    return root


def _data(root: Path, source: str, target: str) -> Path:
    return root / f"{ISO_639_1[source]}-{ISO_639_1[target]}" / "data"


def _asr(manifests: Manifests, root: Path, lang: str, split: str, style: str, reasons: Counter[str]) -> dict[str, Any]:
    """lhotse's segments of one language; what has no text in the style asked for is counted in ``reasons``."""
    segments = list(manifests["supervisions"])
    if style == "normalised":
        return {**manifests, "supervisions": [canonical(segment, lang) for segment in segments]}
    txt_dir = _data(root, lang, lang) / split / "txt"
    timed = TimedText(txt_dir, split, ISO_639_1[lang])
    lines = [timed.at(segment.recording_id, segment.start) for segment in segments]
    found = sum(line is not None for line in lines)
    if found < ENOUGH * len(segments):
        raise ValueError(
            f"{txt_dir}: has lines for {found} of the {len(segments)} segments of the vtt files; use --text normalised"
        )
    reasons[NO_CASED] += len(segments) - found
    reasons += timed.lost(manifests["recordings"])
    recordings = {recording.id: recording for recording in manifests["recordings"]}
    kept = [
        canonical(untrimmed(segment, line, recordings[segment.recording_id]), lang, line.text)
        for segment, line in zip(segments, lines, strict=True)
        if line is not None
    ]
    return {**manifests, "supervisions": kept}


def _translated(root: Path, source: str, target: str, split: str, reasons: Counter[str]) -> dict[str, Any]:
    """Translations only: what is said in them is in the source language's own corpus, which ASR uses."""
    manifests, left_out = read_pair(_data(root, source, target), split, ISO_639_1[source], ISO_639_1[target])
    segments = [
        canonical(segment, source, translations={target: segment.custom["translation"]}, asr=False)
        for segment in manifests["supervisions"]
    ]
    reasons += left_out
    return {**manifests, "supervisions": segments}


if __name__ == "__main__":
    sys.exit(run(prepare_mtedx, langs=LANGS))
