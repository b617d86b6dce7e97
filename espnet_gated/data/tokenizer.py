"""Train the BPE model of an S2T recipe and write ESPnet's token list."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from espnet_gated.data.text_line import NO_TEXT, TIMESTAMP_TOKEN

NO_SPEECH = "<nospeech>"
FIRST_TOKENS = ("<blank>", "<unk>")
LAST_TOKENS = ("<sos>", "<eos>", "<sop>")  # ESPnet's S2T task looks for these names
_SENTENCEPIECE_OWN = ("<unk>", "<s>", "</s>")

_NAME = re.compile(r"[a-z0-9_]+")
_LEADING_SPECIAL = re.compile(r"(?:<[^<>\s]+>\s*)+")


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens that are never split.

    Args:
        langs: language codes without brackets, e.g. ``deu``.
        tasks: task names without brackets, e.g. ``asr``, ``st_eng``.
        time_resolution: seconds between two time symbols.
        max_time: the last time symbol, in seconds; a whole number of ``time_resolution``.

    Raises:
        ValueError: for a name given twice or with odd characters, or times that do not fit.
    """

    langs: tuple[str, ...]
    tasks: tuple[str, ...]
    time_resolution: float = 0.02
    max_time: float = 30.0

    def __post_init__(self) -> None:
        for option, names in (("--langs", self.langs), ("--tasks", self.tasks)):
            if not names:
                raise ValueError(f"need at least one name ({option})")
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ValueError(f"name must be of a-z, 0-9 and _, got {name!r} ({option})")
        every = [*self.langs, *self.tasks]
        twice = sorted({name for name in every if every.count(name) > 1})
        if twice:
            raise ValueError(f"given twice: {' '.join(twice)} (--langs, --tasks)")
        if not 0 < self.time_resolution <= self.max_time:
            raise ValueError(
                "time_resolution must be above 0 and at most max_time, got "
                f"{self.time_resolution} and {self.max_time} (--time_resolution, --max_time)"
            )
        steps = self.max_time / self.time_resolution
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"max_time must be a whole number of time_resolution, got {self.max_time} / "
                f"{self.time_resolution} (--max_time, --time_resolution)"
            )

    @property
    def times(self) -> tuple[str, ...]:
        """Time symbols from ``<0.00>`` to the last; with resolution = max_time only these two."""
        steps = round(self.max_time / self.time_resolution)
        symbols = tuple(f"<{i * self.time_resolution:.2f}>" for i in range(steps + 1))
        if len(set(symbols)) < len(symbols):
            raise ValueError(
                f"time symbols have two decimals: {self.time_resolution} s is too fine (--time_resolution)"
            )
        return symbols

    def __iter__(self) -> Iterator[str]:
        yield from (NO_TEXT, NO_SPEECH)
        yield from (f"<{name}>" for name in (*self.langs, *self.tasks))
        yield TIMESTAMP_TOKEN
        yield from self.times  # consecutive ids: ESPnet shifts a time by adding to its id


def read_texts(files: Sequence[str | Path]) -> list[str]:
    """Read Kaldi text files (``id text``) and return the distinct texts, sorted.

    Leading special tokens such as ``<deu><asr><notimestamps>`` are dropped, and so are lines with nothing else.
    Distinct,
    because one sentence stands in ``text`` and ``text.ctc``, once per task.

    Raises:
        ValueError: where no text is left.
    """
    texts = set()
    for file in files:
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            text = _LEADING_SPECIAL.sub("", line.partition(" ")[2], count=1).strip()
            if text:
                texts.add(text)
    if not texts:
        raise ValueError(f"no text in {', '.join(map(str, files))} (--text)")
    return sorted(texts)


def token_list(model: sentencepiece.SentencePieceProcessor, special: SpecialTokens) -> list[str]:
    """Return the tokens in ESPnet's order: blank and unk, special tokens, pieces, sos, eos and sop."""
    apart = {*special, *_SENTENCEPIECE_OWN}
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    return [*FIRST_TOKENS, *special, *(p for p in pieces if p not in apart), *LAST_TOKENS]


def train_tokenizer(texts: Sequence[str], output_dir: str | Path, nbpe: int, special: SpecialTokens) -> list[str]:
    """Train a BPE model and write ``bpe.model`` and ``tokens.txt``, both or neither.

    Args:
        texts: sentences without special tokens.
        output_dir: where the two files go.
        nbpe: size of the sentencepiece vocabulary; the special tokens count.
        special: tokens that are never split.

    Returns:
        The token list as written.

    Raises:
        ValueError: where ``nbpe`` does not fit the text.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=".tokenizer-", dir=output_dir))
    try:
        model = _train(texts, temp / "bpe", nbpe, special)
        tokens = token_list(model, special)
        (temp / "tokens.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
        for name in ("bpe.model", "tokens.txt"):
            os.replace(temp / name, output_dir / name)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return tokens


def _train(
    texts: Iterable[str], prefix: Path, nbpe: int, special: SpecialTokens
) -> sentencepiece.SentencePieceProcessor:
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_prefix=str(prefix),
            vocab_size=nbpe,
            model_type="bpe",
            character_coverage=1.0,
            user_defined_symbols=list(special),
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"sentencepiece refused nbpe {nbpe}: {reason} (--nbpe)") from error
    return sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
