"""The voices, what each says in which file, and the utterances that follow for ASR and translation."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from espnet_gated.data.datadir import Utterance
from local.asterisk.audio import SAMPLE_RATE, SUFFIXES, cache_16k
from local.asterisk.transcripts import NO_SPEECH, Transcripts, read_transcripts

NO_AUDIO, NO_TRANSCRIPT = "no audio", "no transcript"
TOO_LONG, TOO_SHORT, TOO_FAST = "too long", "too short", "text too long for audio"

# Nobody reads out more letters a second; the texts that exceed it are other ones than were spoken.
MAX_CHARS_PER_SECOND = 22.0
# A translation beyond this ratio of lengths says something else; short texts may vary more.
MAX_LENGTH_RATIO = 2.5
FREE_LENGTH_DIFFERENCE = 20

SOUNDS = Path("usr/share/asterisk/sounds")
DOC = Path("usr/share/doc")
# Debian's two-letter names of the languages.
DEBIAN_LANG = {"eng": "en", "spa": "es", "fra": "fr", "ita": "it", "rus": "ru"}

# Spelling: one letter or code word each. "a" or "alpha" is no translation of anything.
SPELLING = re.compile(r"phonetic/.*|letters/(.|zed)")


@dataclass(frozen=True)
class Voice:
    """One speaker of one package.

    Args:
        spk: speaker id.
        lang: ISO 639-3.
        package: Debian package of the recordings.
        folder: where they lie below ``usr/share/asterisk/sounds``.
        official: recorded for the transcripts that we have. The other voices read translations of
            their own, matched by prompt name.
        only: name prefixes to which ``lang``'s transcripts are known to apply; empty for all.
        real: a person; else a synthesiser, whose recordings are translated into one language each.
    """

    spk: str
    lang: str
    package: str
    folder: str
    official: bool = True
    only: tuple[str, ...] = ()
    real: bool = True


VOICES = (
    Voice("eng_allison", "eng", "asterisk-core-sounds-en-g722", "en_US_f_Allison"),
    Voice("spa_allison", "spa", "asterisk-core-sounds-es-g722", "es_MX_f_Allison"),
    Voice("fra_june", "fra", "asterisk-core-sounds-fr-g722", "fr_CA_f_June"),
    Voice("ita_carlo", "ita", "asterisk-core-sounds-it-g722", "it_IT_m_Carlo"),
    Voice("rus_ivrvoice", "rus", "asterisk-core-sounds-ru-g722", "ru_RU_f_IvrvoiceRU"),
    # Says the same words as ita_carlo nearly everywhere (see the recipe's README).
    Voice("ita_menardi", "ita", "asterisk-prompt-it-menardi-wav", "it_IT_f_Menardi", False),
    # Another translation than fra_june's: only what leaves no choice of words.
    Voice(
        "fra_armelle", "fra", "asterisk-prompt-fr-armelle", "fr", False,
        ("digits/", "letters/", "phonetic/"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Recording:
    """A prompt as one voice says it; ``seconds`` is its length."""

    voice: Voice
    name: str
    flac: Path
    num_samples: int

    @property
    def seconds(self) -> float:
        return self.num_samples / SAMPLE_RATE


@dataclass(frozen=True)
class Limits:
    """Lengths in seconds outside which a recording is left out."""

    min_seconds: float
    max_seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds < self.max_seconds:
            raise ValueError(
                f"min_seconds must be above 0 and below max_seconds, got {self.min_seconds} and {self.max_seconds}"
            )


def transcript_package(lang: str) -> str:
    """The Debian package that has the transcripts of a language."""
    return f"asterisk-core-sounds-{DEBIAN_LANG[lang]}"


def load_transcripts(root: Path, lang: str) -> Transcripts:
    """Read a language's transcripts out of its unpacked package (plain or compressed)."""
    folder = root / DOC / transcript_package(lang)
    stem = folder / f"core-sounds-{DEBIAN_LANG[lang]}.txt"
    for file in (stem.with_suffix(".txt.gz"), stem):
        if file.is_file():
            return read_transcripts(file, lang)
    raise FileNotFoundError(f"no transcripts {stem}.gz; is the package unpacked whole?")


def drop_sounds(transcripts: Mapping[str, Transcripts]) -> dict[str, Transcripts]:
    """Drop in every language what any of them marks as a sound without speech."""
    sounds = {name for one in transcripts.values() for name, reason in one.dropped.items() if reason == NO_SPEECH}
    return {
        lang: Transcripts(
            {name: text for name, text in one.texts.items() if name not in sounds},
            {**one.dropped, **{name: NO_SPEECH for name in one.texts if name in sounds}},
        )
        for lang, one in transcripts.items()
    }


def find_sounds(root: Path, voice: Voice) -> dict[str, Path]:
    """Lower-cased prompt name -> sound file of a voice, out of its unpacked package."""
    folder = root / SOUNDS / voice.folder
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in SUFFIXES]
    if not files:
        raise FileNotFoundError(f"no sound files below {folder}; is the package unpacked whole?")
    return {str(file.relative_to(folder).with_suffix("")).lower(): file for file in files}


def record(
    voice: Voice, root: Path, transcripts: Transcripts, audio_dir: Path, limits: Limits, workers: int = 1
) -> tuple[list[Recording], dict[str, str]]:
    """Convert what a voice says and has a usable transcript, with ``workers`` threads.

    Returns:
        The recordings in order of their names, and prompt name -> why it was left out.
    """
    files = find_sounds(root, voice)
    names = sorted(files.keys() | transcripts.texts.keys() | transcripts.dropped.keys())
    dropped = {}
    speaking = []
    for name in names:
        if voice.only and not name.startswith(voice.only):
            continue
        if name in transcripts.dropped:
            dropped[name] = transcripts.dropped[name]
        elif name not in files:
            dropped[name] = NO_AUDIO
        elif name not in transcripts.texts:
            dropped[name] = NO_TRANSCRIPT
        else:
            speaking.append(name)

    def convert(name: str) -> Recording:
        flac = audio_dir / voice.spk / f"{name}.flac"
        return Recording(voice, name, flac, cache_16k(files[name], flac))

    recordings = []
    with ThreadPoolExecutor(workers) as pool:
        for recording in pool.map(convert, speaking):
            fault = _fault(recording.seconds, transcripts.texts[recording.name], limits)
            if fault:
                dropped[recording.name] = fault
            else:
                recordings.append(recording)
    return recordings, dropped


def utterances(
    recordings: Iterable[Recording],
    texts: Mapping[str, Mapping[str, str]],
    pairs: Collection[tuple[str, str]],
) -> Iterator[Utterance]:
    """One utterance for ASR of each recording and one for each translation that exists.

    Args:
        recordings: of any voices.
        texts: language -> prompt name -> text.
        pairs: (source, target) languages to translate.
    """
    for recording in recordings:
        source = recording.voice.lang
        yield _utterance(recording, "asr", texts[source][recording.name], texts)
        if SPELLING.fullmatch(recording.name):
            continue
        targets = [
            target
            for target in sorted(target for lang, target in pairs if lang == source)
            if recording.name in texts[target]
            and is_translation(texts[source][recording.name], texts[target][recording.name])
        ]
        if not recording.voice.real and targets:
            targets = [targets[zlib.crc32(recording.voice.spk.encode()) % len(targets)]]
        for target in targets:
            yield _utterance(recording, f"st_{target}", texts[target][recording.name], texts)


def is_translation(source: str, target: str) -> bool:
    """Whether two texts of one prompt are of lengths that translations have."""
    short, long = sorted((len(source), len(target)))
    return long <= MAX_LENGTH_RATIO * short or long - short <= FREE_LENGTH_DIFFERENCE


def _fault(seconds: float, text: str, limits: Limits) -> str:
    if seconds < limits.min_seconds:
        return TOO_SHORT
    if seconds > limits.max_seconds:
        return TOO_LONG
    return TOO_FAST if len(text) / seconds > MAX_CHARS_PER_SECOND else ""


def _utterance(recording: Recording, task: str, text: str, texts: Mapping[str, Mapping[str, str]]) -> Utterance:
    voice = recording.voice
    return Utterance(
        utt_id=f"{voice.spk}-{recording.name.replace('/', '.')}-{task}",
        wav=str(recording.flac.resolve()),
        spk=voice.spk,
        lang=voice.lang,
        task=task,
        text=text,
        text_ctc=texts[voice.lang][recording.name],
        num_samples=recording.num_samples,
    )
