"""Utterances to decode, read from a data directory or from ESPnet's data triples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_gated.data.audio import AudioError, audio_info, is_there, read_audio
from espnet_gated.data.ffmpeg import MissingDecoderError
from espnet_gated.data.text_line import symbols_of
from espnet_gated.inference.request import Request


@dataclass(frozen=True)
class Item:
    """An utterance of a test set."""

    utt_id: str
    lang: str | None
    task: str | None
    wav: str


class DecodeInputError(ValueError):
    """Something to decode is missing or unusable; the message names file and utterance."""


def symbol(name: str | None) -> str | None:
    """``deu`` or ``<deu>`` → ``<deu>`` (angle brackets are awkward in a shell)."""
    return None if name is None else f"<{name.strip('<>')}>"


def read_table(path: Path) -> dict[str, str]:
    """Read a file of two columns.

    Raises:
        DecodeInputError: naming the file and line of a line without a value.
    """
    table = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split(maxsplit=1)
            if len(fields) < 2:
                raise DecodeInputError(f"{path}:{number}: expected an id and a value, got {line.rstrip()!r}")
            table[fields[0]] = fields[1].strip()
    return table


def read_items(wav_scp: Path, context_dir: Path | None, key_file: Path | None = None) -> list[Item]:
    """List the utterances of a ``wav.scp``.

    Args:
        wav_scp: ``utt path``, where a path may be ``file.ark:offset``.
        context_dir: directory that may hold ``utt2lang`` and ``utt2task``, or else ``text`` that begins with both, as
            ESPnet's recipes of OWSM write it.
        key_file: only the ids in its first column.

    Raises:
        DecodeInputError: for a missing file or audio.
    """
    if not wav_scp.is_file():
        raise DecodeInputError(f"{wav_scp}: no such file")
    wavs = read_table(wav_scp)
    if key_file is not None:
        if not key_file.is_file():
            raise DecodeInputError(f"{key_file}: no such file (--key_file)")
        wanted = [line.split()[0] for line in key_file.read_text(encoding="utf-8").splitlines() if line.strip()]
        unknown = [utt for utt in wanted if utt not in wavs]
        if unknown:
            raise DecodeInputError(f"{key_file}: utterance {unknown[0]} is not in {wav_scp}")
        wavs = {utt: wavs[utt] for utt in wanted}
    for utt, wav in wavs.items():
        if wav.endswith("|"):
            raise DecodeInputError(
                f"{wav_scp}: utterance {utt}: pipes are not run here: {wav} (ESPnet's format_wav_scp.sh writes files)"
            )
        if not is_there(wav):
            raise DecodeInputError(f"{wav_scp}: utterance {utt}: audio {wav} does not exist")
    langs, tasks = ({}, {}) if context_dir is None else _langs_and_tasks(context_dir)
    return [Item(utt, symbol(langs.get(utt)), symbol(tasks.get(utt)), wav) for utt, wav in wavs.items()]


def _langs_and_tasks(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Of the utterances of a data directory, as far as it tells."""
    found: list[dict[str, str]] = []
    for place, name in enumerate(("utt2lang", "utt2task")):
        if (folder / name).is_file():
            found.append(read_table(folder / name))
        elif (folder / "text").is_file():
            told = ((utt, symbols_of(text)) for utt, text in read_table(folder / "text").items())
            found.append({utt: symbols[place] for utt, symbols in told if symbols is not None})
        else:
            found.append({})
    return found[0], found[1]


def of_each_task(items: Sequence[Item]) -> list[list[Item]]:
    """Utterances by task. In a data directory tasks may take turns: every n-th utterance of all may be one task's."""
    of_task: dict[str | None, list[Item]] = {}
    for item in items:
        of_task.setdefault(item.task, []).append(item)
    return list(of_task.values())


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """About ``number`` utterances, evenly spaced within each task, and at least one of each."""
    chosen = []
    for task in of_each_task(items):
        most = min(len(task), max(1, round(number * len(task) / len(items))))
        chosen += [task[i * len(task) // most] for i in range(most)]
    return chosen


def load_request(item: Item, fs: int) -> Request:
    """Read the audio of an utterance: any format and rate, one channel or more.

    Args:
        item: what to read.
        fs: sampling rate the model wants, Hz; other rates are resampled.

    Raises:
        DecodeInputError: if the file is unreadable or empty, or takes a decoder that is not here.
    """
    try:
        speech = read_audio(item.wav, fs)
    except (AudioError, MissingDecoderError) as error:
        raise DecodeInputError(f"utterance {item.utt_id}: {error}") from None
    return Request(speech, lang_sym=item.lang, task_sym=item.task)


def batches(items: Sequence[Item], size: int, by_length: bool) -> Iterator[list[Item]]:
    """Batches of at most ``size``; sorted by duration where several are decoded together."""
    if by_length and size > 1:
        items = sorted(items, key=_seconds, reverse=True)
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def every_nth(items: Sequence[Item], every: int) -> set[str]:
    """Every n-th utterance of each task."""
    return {item.utt_id for task in of_each_task(items) for item in task[::every]}


def plan(
    items: Sequence[Item], size: int, by_length: bool, latency_every: int | None
) -> tuple[list[list[Item]], set[str]]:
    """What is decoded together, and which utterances are timed.

    Args:
        items: the utterances.
        size, by_length: of the batches, see :func:`batches`.
        latency_every: every n-th utterance of a task is decoded alone, and only these are timed; ``None``: all are, in
            their batches.
    """
    alone = set() if latency_every is None else every_nth(items, latency_every)
    rest = [item for item in items if item.utt_id not in alone]
    planned = [[item] for item in items if item.utt_id in alone] + list(batches(rest, size, by_length))
    return planned, alone or {item.utt_id for item in items}


def _seconds(item: Item) -> float:
    try:
        return audio_info(item.wav).seconds
    except (AudioError, MissingDecoderError) as error:
        raise DecodeInputError(f"utterance {item.utt_id}: {error}") from None
