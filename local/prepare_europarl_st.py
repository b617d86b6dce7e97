"""Europarl-ST v1.1 as ESPnet S2T data: debates of the European Parliament, ASR and translation.

    python local/prepare_europarl_st.py --corpus_dir downloads/europarl_st --data_dir data --audio_dir downloads/16k

writes ``data/{train,dev,test}``. With ``--download`` the corpus (20 GB) is fetched first.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: find local.manifests

from local.manifests import europarl_st  # noqa: E402
from local.manifests.cli import run  # noqa: E402
from local.manifests.datadirs import Places, prepare  # noqa: E402
from local.manifests.languages import ISO_639_1, check_langs  # noqa: E402
from local.manifests.segments import Sets, canonical, join  # noqa: E402
from local.pairs import parse_pairs  # noqa: E402

LANGS = tuple(lang for lang, code in ISO_639_1.items() if code in europarl_st.LANGUAGES)


def prepare_europarl_st(
    corpus_dir: str | Path,
    data_dir: str | Path,
    audio_dir: str | Path,
    langs: Sequence[str] = ("deu", "fra", "ita"),
    st_pairs: Sequence[str] = ("all-eng",),
    min_seconds: float = 0.1,
    max_seconds: float = 30.0,
    audio_format: str = "flac",
    nj: int = 1,
    download: bool = False,
) -> dict[str, Any]:
    """Write ``train``, ``dev`` and ``test``.

    Speeches are cut into segments once for each target language, and those of all targets are joined: with one target
    (the published setting) ASR has that target's segments.

    Args:
        corpus_dir: holds ``<src>/audios`` or ``v1.1/<src>/audios``.
        data_dir: gets the data directories.
        audio_dir: gets the audio of the segments.
        langs: spoken languages (ISO 639-3).
        st_pairs: translations, ``source-target``; ``all`` stands for every spoken language.
        min_seconds, max_seconds: shorter and longer segments are left out.
        audio_format: ``flac`` or ``wav``.
        nj: threads.
        download: fetch the corpus into ``corpus_dir`` first.

    Returns, Raises:
        As :func:`local.manifests.datadirs.prepare`.
    """
    langs = check_langs(langs, LANGS)
    pairs = parse_pairs(st_pairs, langs, LANGS)
    if not pairs:
        raise ValueError("Europarl-ST's transcripts come with translations: need at least one pair (--st_pairs)")
    for source in langs:
        if source not in {lang for lang, _ in pairs}:
            raise ValueError(
                f"{source} is translated into nothing, and Europarl-ST's transcripts come with translations: give it a "
                f"pair or leave it out (--langs {' '.join(langs)}, --st_pairs)"
            )
    if download:
        europarl_st.download_europarl_st(corpus_dir)
    places = Places(Path(corpus_dir), Path(data_dir), Path(audio_dir), min_seconds, max_seconds, audio_format, nj)

    def read() -> tuple[Sets, dict[str, Any]]:
        parts: dict[str, list[Any]] = {split: [] for split in europarl_st.SPLITS}
        left_out: dict[str, Counter[str]] = {split: Counter() for split in europarl_st.SPLITS}
        for source in langs:
            targets = sorted(target for lang, target in pairs if lang == source)
            found = europarl_st.prepare_europarl_st(
                places.corpus_dir,
                places.manifests,
                [ISO_639_1[source]],
                [ISO_639_1[target] for target in targets],
                num_jobs=nj,
            )
            for target, sets in zip(targets, found.values(), strict=True):
                for split, manifests in sets.items():
                    segments = [
                        canonical(segment, source, translations={target: segment.custom["translation"]})
                        for segment in manifests["supervisions"]
                    ]
                    parts[split].append({**manifests, "supervisions": segments})
                    left_out[split] += manifests["left_out"]
        joined = {split: join(found) for split, found in parts.items()}
        return {k: v[0] for k, v in joined.items()}, {k: v[1] + left_out[k] for k, v in joined.items()}

    return prepare("europarl_st", places, pairs, {"langs": langs}, read)


if __name__ == "__main__":
    sys.exit(run(prepare_europarl_st, langs=LANGS))
