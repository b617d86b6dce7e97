"""Cut the segments of recordings into audio files of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile
from lhotse import Recording, SupervisionSegment
from tqdm import tqdm

from espnet_gated.data.audio import AudioError, AudioRange, Samples, decode_audio, read_spans, sample_range
from local.manifests.segments import OUTSIDE, Manifests

FS = 16000
FORMATS = ("flac", "wav")
SLACK = 0.01  # seconds within which a segment is its whole recording
SHORTEST_SHARE = 0.9  # of a segment that must lie within its recording, or the text is not all there
UNREADABLE, SILENT = "unreadable audio", "silent audio"


@dataclass(frozen=True)
class Clip:
    """The audio of one segment: a file with one channel at ``FS`` Hz."""

    path: Path
    num_samples: int


def cut_segments(
    manifests: Manifests, audio_dir: Path, audio_format: str = "flac", nj: int = 1, label: str = "cut"
) -> tuple[dict[str, Clip], dict[str, str]]:
    """Write one file for each segment, at ``FS`` Hz with one channel.

    A file that is there is kept if it is whole: its name holds its seconds, and all of it is decoded to see. Each is
    written under another name first, so that a run that was cut short goes on where it stopped. A recording that is one
    segment and such a file already is used as it is.

    Args:
        manifests: lhotse's recordings and supervisions.
        audio_dir: where the files go: ``<language>/<recording>/<start>-<end>.<format>``, in milliseconds.
        audio_format: ``flac`` or ``wav``, of 16 bits.
        nj: threads.
        label: of the progress bar.

    Returns:
        Segment id → clip, and segment id → why there is none.

    Raises:
        MissingDecoderError: if the recordings take torchcodec or ffmpeg and there is neither.
        ValueError: for an unknown format.
    """
    if audio_format not in FORMATS:
        raise ValueError(f"audio_format must be one of {', '.join(FORMATS)}, got {audio_format!r} (--audio_format)")
    recordings = {recording.id: recording for recording in manifests["recordings"]}
    jobs: dict[str, list[SupervisionSegment]] = {}
    for segment in manifests["supervisions"]:
        jobs.setdefault(segment.recording_id, []).append(segment)
    clips: dict[str, Clip] = {}
    dropped: dict[str, str] = {}

    def work(recording_id: str) -> list[tuple[str, Clip | str]]:
        return list(_cut(recordings[recording_id], jobs[recording_id], audio_dir, audio_format))

    total = sum(map(len, jobs.values()))
    pool = ThreadPoolExecutor(max(1, nj))
    try:
        with tqdm(total=total, desc=label, unit="utt", mininterval=1.0) as bar:
            for done in pool.map(work, jobs):
                for segment_id, result in done:
                    if isinstance(result, Clip):
                        clips[segment_id] = result
                    else:
                        dropped[segment_id] = result
                bar.update(len(done))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error the rest would be cut in vain
    return clips, dropped


def _cut(
    recording: Recording, segments: Sequence[SupervisionSegment], audio_dir: Path, audio_format: str
) -> Iterator[tuple[str, Clip | str]]:
    """The clips of one recording, or why there are none."""
    source = Path(recording.sources[0].source)
    missing = []
    for segment in segments:
        whole = _is_whole(recording, segment)
        path = source if whole else _path(audio_dir, segment, audio_format)
        seconds = recording.duration if whole else min(segment.end, recording.duration) - segment.start
        try:
            found = _decoded(path, seconds)
        except AudioError as error:
            if whole:
                tqdm.write(f"left out: {error}")
                yield segment.id, UNREADABLE
            else:
                missing.append((segment, path))
        else:
            yield segment.id, _clip(path, found)
    spans = [(segment.start, segment.end) for segment, _ in missing]
    left = [segment.id for segment, _ in missing]
    try:
        for (segment, path), samples in zip(missing, read_spans(source, spans, FS) if missing else (), strict=True):
            left.pop(0)
            if len(samples) < SHORTEST_SHARE * segment.duration * FS:
                yield segment.id, OUTSIDE
            else:
                write_audio(path, samples, audio_format)
                yield segment.id, _clip(path, sample_range(samples))
    except AudioError as error:
        tqdm.write(f"left out: {error}")
        yield from ((segment_id, UNREADABLE) for segment_id in left)


def _decoded(path: Path, seconds: float) -> AudioRange:
    """What a file holds; AudioError where there is none, or it is damaged, or not of this length."""
    found = decode_audio(path)
    if abs(found.frames - seconds * FS) > SLACK * FS:
        raise AudioError(f"{path}: holds {found.frames} samples, not {seconds:.3f} s")
    return found


def _clip(path: Path, samples: AudioRange) -> Clip | str:
    return SILENT if samples.is_silent else Clip(path.resolve(), samples.frames)


def _is_whole(recording: Recording, segment: SupervisionSegment) -> bool:
    """Whether the recording's own file will do."""
    suffix = Path(recording.sources[0].source).suffix.lower()
    fits = recording.sampling_rate == FS and recording.num_channels == 1 and suffix in (".wav", ".flac")
    return fits and segment.start <= SLACK and abs(segment.end - recording.duration) <= SLACK


def _path(audio_dir: Path, segment: SupervisionSegment, audio_format: str) -> Path:
    start, end = (round(1000 * seconds) for seconds in (segment.start, segment.end))
    return audio_dir / segment.language / segment.recording_id / f"{start:07d}-{end:07d}.{audio_format}"


def write_audio(path: Path, samples: Samples, audio_format: str) -> None:
    """Samples (T,) at 16 kHz as a 16-bit file: all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temp = tempfile.mkstemp(dir=path.parent, prefix=".new-", suffix=path.suffix)
    os.close(handle)
    try:
        soundfile.write(temp, samples.clip(-1.0, 1.0), FS, subtype="PCM_16", format=audio_format.upper())
        os.chmod(temp, 0o644)
        os.replace(temp, path)
    finally:
        Path(temp).unlink(missing_ok=True)
