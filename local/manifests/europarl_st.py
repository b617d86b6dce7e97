"""Europarl-ST v1.1 in the shape of lhotse's recipes, which lack it.

Debates of the European Parliament (2008 to 2012) in nine languages, each translated into the others (Iranzo-Sánchez et
al., ICASSP 2020; <https://www.mllp.upv.es/europarl-st>; CC BY-NC 4.0). On disk::

    <src>/audios/<speech>.m4a
    <src>/<tgt>/{train,dev,test}/segments.lst       speech start end, one line a segment
    <src>/<tgt>/{train,dev,test}/segments.<src>     its transcript
    <src>/<tgt>/{train,dev,test}/segments.<tgt>     its translation
    <src>/<tgt>/{train,dev,test}/speeches.lst       the speeches of the set
    <src>/<tgt>/{train,dev,test}/speakers.lst       their speakers
"""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lhotse import AudioSource, Recording, SupervisionSegment
from lhotse.utils import resumable_download, safe_extract
from tqdm import tqdm

from espnet_gated.data.audio import AudioError, audio_info
from local.manifests.segments import with_audio

URL = "https://www.mllp.upv.es/europarl-st/v1.1.tar.gz"
LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pl", "pt", "ro")
SPLITS = ("train", "dev", "test")
AUDIO_SUFFIXES = (".m4a", ".flac", ".wav", ".mp3")  # as published, or as people convert it


def download_europarl_st(target_dir: str | Path = ".", force_download: bool = False, url: str = URL) -> Path:
    """Download and unpack the corpus (20 GB); goes on where it stopped.

    Returns:
        The directory that holds the languages.
    """
    target_dir = Path(target_dir)
    target_dir.mkdir(parents=True, exist_ok=True)
    done = target_dir / ".europarl_st_v1.1.completed"
    if force_download or not done.is_file():
        archive = target_dir / "europarl-st_v1.1.tar.gz"
        resumable_download(url, filename=archive, force_download=force_download)
        with tarfile.open(archive) as tar:
            safe_extract(tar, path=target_dir)
        done.touch()
    return find_root(target_dir)


def find_root(corpus_dir: str | Path) -> Path:
    """The directory that holds the languages: ``corpus_dir`` or its ``v1.1``.

    Raises:
        ValueError: if it is neither.
    """
    corpus_dir = Path(corpus_dir)
    for root in (corpus_dir, corpus_dir / "v1.1"):
        if any((root / lang / "audios").is_dir() for lang in LANGUAGES):
            return root
    raise ValueError(f"{corpus_dir}: no Europarl-ST v1.1 here (expected {corpus_dir}/de/audios or v1.1/de/audios)")


def prepare_europarl_st(
    corpus_dir: str | Path,
    output_dir: str | Path | None = None,
    languages: Sequence[str] = ("de", "fr", "it"),
    target_languages: Sequence[str] = ("en",),
    num_jobs: int = 1,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Make manifests; a speech without readable audio is left out with a warning.

    Args:
        corpus_dir: the corpus (see :func:`find_root`).
        output_dir: where the manifests are written, ``europarl_st-<src>-<tgt>_<kind>_<split>.jsonl.gz``.
        languages: spoken languages (ISO 639-1).
        target_languages: languages of the translations.
        num_jobs: threads that look at audio files.

    Returns:
        ``de-en`` → ``train``, ``dev``, ``test`` → ``recordings`` and ``supervisions``; a supervision's ``text`` is the
        transcript and ``custom["translation"]`` the translation. Beside them ``left_out``, reason → segments.

    Raises:
        ValueError: for a language or file that is missing, or files that disagree in length.
        MissingDecoderError: if there is neither torchcodec nor ffmpeg.
    """
    root = find_root(corpus_dir)
    manifests: dict[str, dict[str, dict[str, Any]]] = {}
    for source in languages:
        targets = [target for target in target_languages if target != source]
        segments = {
            (target, split): list(_read_split(root / source / target / split, source, target))
            for target in targets
            for split in SPLITS
        }
        speeches = sorted({segment.recording_id for found in segments.values() for segment in found})
        recordings = _recordings(root / source / "audios", speeches, num_jobs)
        for target in targets:
            manifests[f"{source}-{target}"] = {}
            for split in SPLITS:
                found, left_out = with_audio(_first_of_each(segments[target, split]), recordings)
                manifests[f"{source}-{target}"][split] = {**found, "left_out": left_out}
    if output_dir is not None:
        _write(manifests, Path(output_dir))
    return manifests


def _read_split(folder: Path, source: str, target: str) -> Iterator[SupervisionSegment]:
    times = _lines(folder / "segments.lst")
    transcripts, translations = (_lines(folder / f"segments.{lang}") for lang in (source, target))
    if not len(times) == len(transcripts) == len(translations):
        raise ValueError(
            f"{folder}: segments.lst, segments.{source} and segments.{target} must have as many lines, got "
            f"{len(times)}, {len(transcripts)} and {len(translations)}"
        )
    speakers = _speakers(folder)
    for number, (line, transcript, translation) in enumerate(zip(times, transcripts, translations, strict=True), 1):
        fields = line.split()
        try:
            speech, start, end = fields[0], float(fields[1]), float(fields[2])
        except (IndexError, ValueError):
            raise ValueError(
                f"{folder / 'segments.lst'}:{number}: expected a speech, start and end, got {line!r}"
            ) from None
        if end <= start:
            logging.warning("%s:%d: ends before it starts: %s", folder / "segments.lst", number, line)
            continue
        yield SupervisionSegment(
            id=f"{speech}_{round(1000 * start):07d}",
            recording_id=speech,
            start=start,
            duration=round(end - start, 8),
            channel=0,
            text=transcript,
            language=source,
            speaker=speakers.get(speech, speech),
            custom={"translation": translation},
        )


def _first_of_each(segments: Sequence[SupervisionSegment]) -> Sequence[SupervisionSegment]:
    """Of segments that start alike, the first."""
    once: dict[str, SupervisionSegment] = {}
    for segment in segments:
        once.setdefault(segment.id, segment)
    return list(once.values())


def _speakers(folder: Path) -> dict[str, str]:
    """Speech → speaker; empty where the lists are missing."""
    files = [folder / "speeches.lst", folder / "speakers.lst"]
    if not all(file.is_file() for file in files):
        return {}
    speeches, speakers = map(_lines, files)
    if len(speeches) != len(speakers):
        raise ValueError(
            f"{folder}: speeches.lst and speakers.lst must have as many lines, got {len(speeches)} and {len(speakers)}"
        )
    return dict(zip(speeches, speakers, strict=True))


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise ValueError(f"{file}: no such file; is the corpus unpacked whole?")
    # only \n ends a line: transcripts may hold other separators
    text = file.read_text(encoding="utf-8")
    return [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []


def _recordings(audio_dir: Path, speeches: Sequence[str], num_jobs: int) -> dict[str, Recording]:
    with ThreadPoolExecutor(max(1, num_jobs)) as pool:
        found = pool.map(lambda speech: _recording(audio_dir, speech), speeches)
        bar = tqdm(found, total=len(speeches), desc=f"{audio_dir.parent.name} audio", unit="file", mininterval=1.0)
        return {recording.id: recording for recording in bar if recording is not None}


def _recording(audio_dir: Path, speech: str) -> Recording | None:
    path = next((p for s in AUDIO_SUFFIXES if (p := audio_dir / f"{speech}{s}").is_file()), None)
    if path is None:
        logging.warning("%s: no audio for speech %s", audio_dir, speech)
        return None
    try:
        info = audio_info(path)
    except AudioError as error:
        logging.warning("%s", error)
        return None
    channels = list(range(max(1, info.channels)))
    return Recording(
        id=speech,
        sources=[AudioSource(type="file", channels=channels, source=str(path))],
        sampling_rate=info.rate,
        num_samples=info.frames,
        duration=info.frames / info.rate,
        channel_ids=channels,
    )


def _write(manifests: dict[str, dict[str, dict[str, Any]]], output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    for pair, sets in manifests.items():
        for split, kinds in sets.items():
            for kind in ("recordings", "supervisions"):
                kinds[kind].to_file(output_dir / f"europarl_st-{pair}_{kind}_{split}.jsonl.gz")
