"""Contexts of utterances: the files ``utt2<name>`` of a data directory, with labels or vectors.

A label file says ``utt label``. A vector file says ``utt 0.1 -2.3 …``, or ``utt file.ark:123`` as Kaldi's ``.scp``
files do; several utterances may point at one place, so a speaker's vector is stored once. Utterances may be missing in
either: their context is unknown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np

DATA_TYPES = {
    "category": "A label per utterance, as context of gated models; utterances may be missing."
    "\n\n   utterance_id_a phone\n   utterance_id_b server\n   ...",
    "vector": "A vector per utterance, as numbers or in a Kaldi ark, as context of gated models; utterances may be "
    "missing.\n\n   utterance_id_a 0.3 -1.2 2.0\n   utterance_id_b /some/where/a.ark:123\n   ...",
}


class ContextFileError(ValueError):
    """A context file is unusable; the message names file, line and utterance."""


class Labels(Mapping[str, str]):
    """A label file, ``utt label``.

    Args:
        path: file to read.

    Raises:
        ContextFileError: for a missing file, or a line without a value.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lines = _read(self.path)

    def __getitem__(self, utt: str) -> str:
        return self._lines[utt][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


class Vectors(Mapping[str, np.ndarray]):
    """A vector file, ``utt numbers…`` or ``utt ark:offset``; a vector is read when asked for.

    Args:
        path: file to read.

    Raises:
        ContextFileError: for a missing file, a line without a value, or (when asked for) an unreadable vector.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lines = _read(self.path)
        self._read: dict[str, np.ndarray] = {}  # by place: the utterances of a speaker share theirs

    def __getitem__(self, utt: str) -> np.ndarray:
        number, place = self._lines[utt]
        if place not in self._read:
            try:
                self._read[place] = _vector(place, self.path.parent)
            except (ValueError, OSError) as error:
                raise ContextFileError(f"{self.path}:{number}: utterance {utt}: no vector ({error})") from None
        return self._read[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


class ForTraining(Mapping[str, np.ndarray]):
    """A context file as ESPnet's data loader wants it: an array for every utterance, known or not.

    A label becomes its UTF-8 bytes (unknown: a single -1, which is the padding), an unknown vector is not a number.

    Args:
        values: labels or vectors by utterance.
    """

    def __init__(self, values: Labels | Vectors):
        self.values_by_utt = values
        size = next(iter(values.values())).size if isinstance(values, Vectors) and len(values) else 0
        self._unknown = np.full(size, np.nan, np.float32) if size else np.array([-1])

    def __getitem__(self, utt: str) -> np.ndarray:
        if utt not in self.values_by_utt:
            return self._unknown
        value = self.values_by_utt[utt]
        return np.array(list(value.encode())) if isinstance(value, str) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_utt)

    def __len__(self) -> int:
        return len(self.values_by_utt)


def add_data_types() -> None:
    """Let ESPnet's ``--train_data_path_and_name_and_type`` say ``data/train/utt2speaker,speaker,vector``."""
    from espnet2.train import dataset

    readers = {"category": read_labels_for_training, "vector": read_vectors_for_training}
    for name, reader in readers.items():
        dataset.DATA_TYPES.setdefault(name, {"func": reader, "kwargs": [], "help": DATA_TYPES[name]})


def read_labels_for_training(path: str) -> ForTraining:
    """ESPnet's data type ``category``."""
    return ForTraining(Labels(path))


def read_vectors_for_training(path: str) -> ForTraining:
    """ESPnet's data type ``vector``."""
    return ForTraining(Vectors(path))


def read_contexts(folder: str | Path, kinds: Mapping[str, str]) -> dict[str, Labels | Vectors]:
    """The context files that a data directory has.

    Args:
        folder: data directory.
        kinds: declared contexts: name → ``category``, ``vector`` (others are left out).

    Returns:
        name → labels or vectors, for each ``utt2<name>`` that exists.
    """
    readers: dict[str, Any] = {"category": Labels, "vector": Vectors}
    files = {name: Path(folder) / f"utt2{name}" for name, kind in kinds.items() if kind in readers}
    return {name: readers[kinds[name]](file) for name, file in files.items() if file.is_file()}


def write_vectors(folder: str | Path, name: str, vectors: Mapping[str, np.ndarray], owner: Mapping[str, str]) -> None:
    """Write ``utt2<name>`` and the archive ``<name>.ark`` it points to.

    Args:
        folder: data directory.
        name: of the context.
        vectors: owner (a speaker, say) → (size,).
        owner: utterance → owner; utterances whose owner has no vector are left out.
    """
    folder = Path(folder).resolve()
    table, scp = folder / f"utt2{name}", folder / f".{name}.scp"
    table.unlink(missing_ok=True)  # its places are those of an archive that is about to change
    kaldiio.save_ark(str(folder / f"{name}.ark"), {k: np.float32(v) for k, v in vectors.items()}, scp=str(scp))
    places = {key: place for key, (_, place) in _read(scp).items()}
    scp.unlink()
    lines: Sequence[str] = [f"{utt} {places[who]}\n" for utt, who in sorted(owner.items()) if who in places]
    unfinished = folder / f".utt2{name}.tmp"
    unfinished.write_text("".join(lines), encoding="utf-8")
    os.replace(unfinished, table)


def _read(path: Path) -> dict[str, tuple[int, str]]:
    """Line number and value of each utterance."""
    if not path.is_file():
        raise ContextFileError(f"{path}: no such file")
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split(maxsplit=1)
        if len(fields) < 2:
            raise ContextFileError(f"{path}:{number}: expected an utterance and a value, got {line!r}")
        found[fields[0]] = number, fields[1].strip()
    return found


def _vector(place: str, folder: Path) -> np.ndarray:
    try:
        vector = np.array([float(x) for x in place.split()], dtype=np.float32)
    except ValueError:
        file = Path(place.rpartition(":")[0] if ":" in place else place)
        if not file.is_absolute() and not file.exists():
            place = str(folder / place)  # beside the file that names it
        vector = np.asarray(kaldiio.load_mat(place), dtype=np.float32)
    if vector.ndim != 1:
        raise ValueError(f"shape {vector.shape}, one dimension is wanted")
    return vector
