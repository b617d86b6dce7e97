"""Check a data directory and its audio, naming file, line and utterance of all that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from espnet_gated.data.datadir import Problem, Utterance, parse_data_dir, read_table
from espnet_gated.data.probe import AudioProbe, Fault
from espnet_gated.data.text_line import NO_TEXT, TIMESTAMP_TOKEN


@dataclass(frozen=True)
class Limits:
    """What good audio and text look like.

    Args:
        fs: sample rate, in Hz.
        min_seconds, max_seconds: shortest and longest audio.
        max_chars_per_second: more text than this cannot be said in the time.
        min_chars_per_second: less text than this cannot be all that was said.
        max_text_chars: longest text; None for any.

    Raises:
        ValueError: for limits that nothing can meet.
    """

    fs: int = 16000
    min_seconds: float = 0.1
    max_seconds: float = 30.0
    max_chars_per_second: float = 40.0
    min_chars_per_second: float = 0.1
    max_text_chars: int | None = None

    def __post_init__(self) -> None:
        if self.fs <= 0:
            raise ValueError(f"fs must be above 0, got {self.fs} (--fs)")
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError(
                "min_seconds must be at least 0 and below max_seconds, got "
                f"{self.min_seconds} and {self.max_seconds} (--min_seconds, --max_seconds)"
            )
        if not 0 <= self.min_chars_per_second < self.max_chars_per_second:
            raise ValueError(
                "min_chars_per_second must be at least 0 and below max_chars_per_second, got "
                f"{self.min_chars_per_second} and {self.max_chars_per_second} "
                "(--min_chars_per_second, --max_chars_per_second)"
            )
        if self.max_text_chars is not None and self.max_text_chars < 1:
            raise ValueError(f"max_text_chars must be at least 1, got {self.max_text_chars} (--max_text_chars)")


def check_data_dir(
    path: str | Path,
    token_list: str | Path | None = None,
    fs: int = 16000,
    *,
    limits: Limits | None = None,
    decode: bool = True,
    any_format: bool = False,
    nj: int = 1,
) -> list[Problem]:
    """Everything wrong with a data directory, its audio included.

    Args:
        path: the data directory.
        token_list: file with one token a line, which must hold the language and task tokens.
        fs: wanted sample rate in Hz.
        limits: lengths allowed; with it ``fs`` is taken from here.
        decode: decode all audio to its end, not only its head.
        any_format: the directory is only decoded, not trained on: take every format and rate.
        nj: threads that look at audio.

    Returns:
        The problems in the order of the files; empty for a good directory.
    """
    path = Path(path)
    limits = limits or Limits(fs=fs)
    utts, problems = parse_data_dir(path)
    wavs, _ = read_table(path / "wav.scp")
    lengths, _ = read_table(path / "utt2num_samples")
    audio = AudioProbe(limits.fs, decode=decode, any_format=any_format)
    audio.look_at((wav for _, wav in wavs.values() if wav), nj, label=f"audio of {path.name}")
    # audio is looked at for every line of wav.scp, also where another file is broken
    for utt_id, (line, wav) in wavs.items():
        number, samples = lengths.get(utt_id, (0, ""))
        known = int(samples) if samples.isdecimal() else None
        for fault in audio.faults(wav, known) if wav else ():  # no path: reported already
            at = number if fault.file == "utt2num_samples" else line
            problems.append(Problem(str(path / fault.file), at, utt_id, fault.message, fault.kind))
    tables = {"utt2num_samples": lengths}
    tables |= {name: read_table(path / name)[0] for name in ("text", "text.ctc")}
    for utt in utts:
        for fault in length_faults(utt, limits):
            at = tables[fault.file][utt.utt_id][0]
            problems.append(Problem(str(path / fault.file), at, utt.utt_id, fault.message, fault.kind))
    if token_list is not None:
        problems += _token_problems(path, Path(token_list), utts, tables["text"])
    return problems


def length_faults(utt: Utterance, limits: Limits) -> Iterator[Fault]:
    """What is wrong with the length of the audio, and of the texts against it."""
    seconds = utt.num_samples / limits.fs
    if seconds < limits.min_seconds:
        message = f"{seconds:.3f} s is shorter than {limits.min_seconds} s (--min_seconds)"
        yield Fault("utt2num_samples", "short", message)
    elif seconds > limits.max_seconds:
        message = f"{seconds:.1f} s is longer than {limits.max_seconds} s (--max_seconds)"
        yield Fault("utt2num_samples", "long", message)
    wrong = _rate_fault("text", utt.text, seconds, limits)
    if wrong is None and utt.text_ctc != NO_TEXT:  # of recognition they are the same, and so is what is wrong
        wrong = _rate_fault("text.ctc", utt.text_ctc, seconds, limits)
    if wrong is not None:
        yield wrong
    if limits.max_text_chars is not None and len(utt.text) > limits.max_text_chars:
        message = f"text has {len(utt.text)} characters, above {limits.max_text_chars} (--max_text_chars)"
        yield Fault("text", "long-text", message)


def _rate_fault(file: str, text: str, seconds: float, limits: Limits) -> Fault | None:
    """What is wrong with the length of a text, for so much audio."""
    rate = len(text) / seconds
    says = f"{len(text)} characters for {seconds:.2f} s of audio, {rate:.2f} a second"
    if rate > limits.max_chars_per_second:
        return Fault(file, "too-much-text", f"{says}, above {limits.max_chars_per_second} (--max_chars_per_second)")
    if rate < limits.min_chars_per_second:
        return Fault(file, "too-little-text", f"{says}, below {limits.min_chars_per_second} (--min_chars_per_second)")
    return None


def _token_problems(
    path: Path,
    token_list: Path,
    utts: list[Utterance],
    texts: dict[str, tuple[int, str]],
) -> list[Problem]:
    """Special tokens that the token list does not know."""
    if not token_list.is_file():
        return [Problem(str(token_list), 0, "", "token list is missing", "missing-file")]
    known = set(token_list.read_text(encoding="utf-8").split("\n"))
    problems = [
        Problem(str(token_list), 0, "", f"token {token} is missing", "token")
        for token in (NO_TEXT, TIMESTAMP_TOKEN)
        if token not in known
    ]
    for utt in utts:
        times = [("time", time) for time in dict.fromkeys(utt.times)]
        for what, token in (("language", f"<{utt.lang}>"), ("task", f"<{utt.task}>"), *times):
            if token not in known:
                message = f"{what} token {token} is not in the token list {token_list}"
                line = texts[utt.utt_id][0]
                problems.append(Problem(str(path / "text"), line, utt.utt_id, message, "token"))
    return problems
