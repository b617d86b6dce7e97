"""MuST-C as ESPnet S2T data: English TED talks, ASR and translation.

    python local/prepare_must_c.py --corpus_dir downloads/must-c --data_dir data --audio_dir downloads/16k

writes ``data/{train,dev,tst-COMMON,tst-HE}`` through lhotse's recipe. The corpus is behind a form and must be there.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: find local.manifests

from lhotse import load_manifest  # noqa: E402
from lhotse.recipes import must_c  # noqa: E402

from local.manifests.cli import run  # noqa: E402
from local.manifests.datadirs import Places, prepare  # noqa: E402
from local.manifests.languages import ISO_639_1, check_langs  # noqa: E402
from local.manifests.segments import Sets, canonical, join  # noqa: E402
from local.manifests.ted import TimedText, untrimmed  # noqa: E402
from local.pairs import parse_pairs  # noqa: E402

SETS = ("train", "dev", "tst-COMMON", "tst-HE")
TARGETS = ("ara", "ces", "deu", "fas", "fra", "ita", "nld", "por", "ron", "rus", "spa", "tur", "vie", "zho")
NO_ENGLISH = "no English line at its seconds"


def prepare_must_c(
    corpus_dir: str | Path,
    data_dir: str | Path,
    audio_dir: str | Path,
    langs: Sequence[str] = ("eng",),
    st_pairs: Sequence[str] = ("eng-deu",),
    min_seconds: float = 0.1,
    max_seconds: float = 30.0,
    audio_format: str = "flac",
    nj: int = 1,
) -> dict[str, Any]:
    """Write ``train``, ``dev``, ``tst-COMMON`` and ``tst-HE``.

    The same talks are in the corpora of several target languages: what is the same segment in two becomes one with two
    translations. ASR has every segment once.

    Args:
        corpus_dir: holds ``en-<tgt>/data/<split>/{wav,txt}`` (releases 1 to 3).
        data_dir: gets the data directories.
        audio_dir: gets the audio of the segments.
        langs: the spoken language, English.
        st_pairs: translations, ``eng-<target>`` (ISO 639-3).
        min_seconds, max_seconds: shorter and longer segments are left out.
        audio_format: ``flac`` or ``wav``.
        nj: threads and processes.

    Returns, Raises:
        As :func:`local.manifests.datadirs.prepare`.
    """
    langs = check_langs(langs, ("eng",))
    pairs = parse_pairs(st_pairs, langs, TARGETS)
    if not pairs:
        raise ValueError("MuST-C's English comes with translations: need at least one pair (--st_pairs)")
    places = Places(Path(corpus_dir), Path(data_dir), Path(audio_dir), min_seconds, max_seconds, audio_format, nj)

    def read() -> tuple[Sets, dict[str, Counter[str]]]:
        parts: dict[str, list[Any]] = {name: [] for name in SETS}
        missing: Counter[str] = Counter()
        lost = {name: Counter[str]() for name in SETS}
        for _, target in sorted(pairs):
            code = ISO_639_1[target]
            pair_dir = places.corpus_dir / f"en-{code}"
            if not (pair_dir / "data").is_dir():
                raise ValueError(f"{pair_dir / 'data'}: no such directory (--corpus_dir, --st_pairs)")
            must_c.prepare_must_c(places.corpus_dir, places.manifests, code, num_jobs=nj)
            for name in SETS:
                found = {
                    kind: load_manifest(places.manifests / f"must_c_{kind}_en-{code}_{name}.jsonl.gz")
                    for kind in ("recordings", "supervisions")
                }
                recordings = {recording.id: recording for recording in found["recordings"]}
                english = TimedText(pair_dir / "data" / name / "txt", name, "en")
                segments = []
                for segment in found["supervisions"]:
                    said = english.at(segment.recording_id, segment.start)
                    if said is None:
                        missing[name] += 1
                    else:
                        whole = untrimmed(segment, said, recordings[segment.recording_id])
                        segments.append(canonical(whole, "eng", said.text, {target: segment.text}))
                lost[name] += english.lost(recordings.values())
                parts[name].append({**found, "supervisions": segments})
        joined = {name: join(found) for name, found in parts.items()}
        dropped = {name: both[1] + lost[name] + Counter({NO_ENGLISH: missing[name]}) for name, both in joined.items()}
        return {name: both[0] for name, both in joined.items()}, dropped

    return prepare("must_c", places, pairs, {"langs": langs}, read)


if __name__ == "__main__":
    sys.exit(run(prepare_must_c, langs=("eng",)))
