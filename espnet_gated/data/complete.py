"""Give a data directory of ESPnet's S2T recipes, such as OWSM's, the files that scoring here reads beside its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from espnet_gated.data.audio import audio_info
from espnet_gated.data.datadir import COLUMNS, DataDirError, read_table, spk2utt_of
from espnet_gated.data.text_line import NO_TEXT, symbols_of, words_of

_NEEDED = ("wav.scp", "text")


@dataclass(frozen=True)
class _Row:
    """What the files that are there say of an utterance."""

    utt_id: str
    wav: str
    text: str
    lang: str
    task: str


def complete_data_dir(path: str | Path, fs: int = 16000) -> list[str]:
    """Write what a data directory lacks, all of it or nothing; what is there stays.

    ``utt2lang`` and ``utt2task`` are what ``text`` begins with, ``utt2num_samples`` the length of the audio,
    ``text.prev`` is ``<na>``, ``text.ctc`` the words of ``text`` in recognition and ``<na>`` in translation; and
    without ``utt2spk`` each utterance is a speaker.

    Args:
        path: a directory with ``wav.scp`` and ``text``.
        fs: the rate that ``utt2num_samples`` counts at, Hz.

    Returns:
        the names of the files written.

    Raises:
        DataDirError: naming file, line and utterance of what cannot be read.
        AudioError, MissingDecoderError: naming an audio file that cannot.
    """
    path = Path(path)
    rows = _rows(path)
    values: dict[str, Callable[[_Row], str]] = {
        "text.prev": lambda row: NO_TEXT,
        "text.ctc": lambda row: words_of(row.text) if row.task == "asr" else NO_TEXT,
        "utt2spk": lambda row: row.utt_id,
        "utt2num_samples": lambda row: str(_samples(row.wav, fs)),
        "utt2lang": lambda row: row.lang,
        "utt2task": lambda row: row.task,
    }
    assert set(values) | set(_NEEDED) == set(COLUMNS)
    tables = {
        name: {row.utt_id: value(row) for row in tqdm(rows, f"{path}: {name}", unit="utt", delay=2.0)}
        for name, value in values.items()
        if not (path / name).is_file()
    }
    if not (path / "spk2utt").is_file():
        utt2spk = tables["utt2spk"] if "utt2spk" in tables else _table(path / "utt2spk")
        tables["spk2utt"] = spk2utt_of(sorted(utt2spk.items()))
    for name, table in tables.items():
        temp = path / f".{name}.tmp"
        temp.write_text("".join(f"{key} {value}\n" for key, value in sorted(table.items())), encoding="utf-8")
    for name in tables:
        os.replace(path / f".{name}.tmp", path / name)
    return list(tables)


def _rows(path: Path) -> list[_Row]:
    wavs, texts = (_table(path / name) for name in _NEEDED)
    rows = []
    for number, (utt_id, wav) in enumerate(wavs.items(), start=1):
        if utt_id not in texts:
            raise DataDirError(f"{path / 'wav.scp'}:{number}: {utt_id}: has no text")
        symbols = symbols_of(texts[utt_id])
        if symbols is None:
            raise DataDirError(f"{path / 'text'}: {utt_id}: must start with <lang><task>, got {texts[utt_id][:60]!r}")
        rows.append(_Row(utt_id, wav, texts[utt_id], *symbols))
    return rows


def _table(file: Path) -> dict[str, str]:
    table, problems = read_table(file)
    if problems:
        raise DataDirError(str(problems[0]))
    return {key: value for key, (_, value) in table.items()}


def _samples(wav: str, fs: int) -> int:
    info = audio_info(wav)
    return -(-info.frames * fs // info.rate)
