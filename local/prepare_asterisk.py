"""Asterisk's voice prompts as ESPnet S2T data: five languages, ASR and translation, real people.

With the repository's root on PYTHONPATH, as recipes have it::

    python local/prepare_asterisk.py --data_dir data --downloads_dir downloads

writes ``data/{train,dev,test,test_unseen_spk}``, the packages' licences to ``data/licences`` and the
counts to ``data/asterisk.json``. Packages and 16 kHz audio are kept in ``downloads`` and reused.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from espnet_gated.data.datadir import Utterance, write_data_dir
from local.asterisk import corpus
from local.asterisk.audio import SAMPLE_RATE
from local.asterisk.augment import Augmentation, Augmenter
from local.asterisk.packages import FetchError, describe_debs, unpack_packages, unpack_pinned
from local.asterisk.split import DEV, TEST, TRAIN, split_prompts
from local.asterisk.transcripts import LANGUAGES
from local.pairs import parse_pairs

UNSEEN = "test_unseen_spk"
KINDS = (
    ("-joined[.]", "prompts in a row"),
    ("-span[.]", "pieces of prompts, synthesised"),
    ("-guide[.]", "pieces of the guide, synthesised"),
    ("^synth", "prompts, synthesised"),
)


def prepare_asterisk(
    data_dir: str | Path,
    downloads_dir: str | Path,
    langs: Sequence[str] = LANGUAGES,
    st_pairs: Sequence[str] = ("all-eng", "eng-all"),
    second_voices: bool = True,
    min_seconds: float = 0.15,
    max_seconds: float = 8.0,
    dev_share: float = 0.08,
    test_share: float = 0.12,
    seed: int = 0,
    nj: int = 1,
    speeds: Sequence[float] = (),
    joined: int = 0,
    synth_voices: int = 0,
    synth_spans: int = 0,
    synth_guide: int = 0,
    natural: float = 0.0,
) -> dict[str, Any]:
    """Fetch what is missing, clean, split and write the data directories.

    Args:
        data_dir: gets a data directory for each set.
        downloads_dir: packages, their contents and the converted audio.
        langs: languages to use (ISO 639-3).
        st_pairs: translations, ``source-target``; ``all`` stands for every language.
        second_voices: also write ``test_unseen_spk``, test prompts by speakers not trained on.
        min_seconds, max_seconds: recordings outside are left out.
        dev_share, test_share: shares of the groups of prompts that say the same.
        seed: of the split.
        nj: threads that convert audio, and processes of the synthesiser.
        speeds, joined, synth_voices, synth_spans, synth_guide, natural: additions to the training set, see
            :class:`local.asterisk.augment.Augmentation`.

    Returns:
        What is also written to ``asterisk.json``: ``sets`` (rows with prompts, minutes and
        utterances for each set and language), ``dropped`` (speaker -> reason -> count),
        ``packages`` and the ``split`` (prompt name -> set).

    Raises:
        FetchError: a package could not be fetched.
        ValueError: an impossible argument or broken input, named in the message.
    """
    data_dir, downloads_dir = Path(data_dir), Path(downloads_dir)
    _check_langs(langs)
    pairs = parse_pairs(st_pairs, langs)
    limits = corpus.Limits(min_seconds, max_seconds)
    how = Augmentation(tuple(speeds), joined, synth_voices, synth_spans, synth_guide, natural)
    voices = [v for v in corpus.VOICES if v.lang in langs and (v.official or second_voices)]
    names = sorted({v.package for v in voices} | {corpus.transcript_package(x) for x in langs})
    roots = unpack_packages(names, downloads_dir)

    transcripts = corpus.drop_sounds(
        {x: corpus.load_transcripts(roots[corpus.transcript_package(x)], x) for x in langs}
    )
    texts = {lang: one.texts for lang, one in transcripts.items()}
    split = split_prompts(texts, dev_share, test_share, seed)
    sets: dict[str, list[Utterance]] = defaultdict(list)
    training: list[corpus.Recording] = []
    dropped = {}
    for voice in voices:
        found, reasons = corpus.record(
            voice, roots[voice.package], transcripts[voice.lang], downloads_dir / "flac16k", limits, nj
        )
        dropped[voice.spk] = dict(sorted(Counter(reasons.values()).items()))
        for recording in found:
            name = split[recording.name]
            if voice.official and name == TRAIN:
                training.append(recording)
            if voice.official or name == TEST:
                rows = corpus.utterances([recording], texts, pairs)
                sets[name if voice.official else UNSEEN] += rows
    more = unpack_pinned(how.packages, downloads_dir) if how.packages else Path()
    held_out = {name for name, place in split.items() if place != TRAIN}
    augmenter = Augmenter(texts, held_out, downloads_dir / "augmented", limits, seed, nj, more)
    made = augmenter.augment(training, how)
    additions = list(corpus.utterances(made.recordings, made.texts, pairs))
    summary_of_additions = _additions(additions)
    for name in (TRAIN, DEV, TEST, *([UNSEEN] if sets[UNSEEN] else [])):
        write_data_dir(data_dir / name, sets[name] + (additions if name == TRAIN else []))
    _keep_licences({**roots, **dict.fromkeys(how.packages, more)}, data_dir / "licences")
    summary = {
        "sets": _count(sets),
        "additions": summary_of_additions,
        "dropped": dropped,
        "packages": describe_debs([*names, *how.packages], downloads_dir),
        "split": dict(sorted(split.items())),
    }
    text = json.dumps(summary, ensure_ascii=False, indent=1)
    (data_dir / "asterisk.json").write_text(text + "\n", encoding="utf-8")
    return summary


def licence_notice(copyright_file: Path) -> str:
    """Who and under which licence, out of the head of a Debian copyright file."""
    wanted = re.compile(r"(files|copyright|copyright holder.*|license): .*|copyright \(c\).*", re.IGNORECASE)
    head = copyright_file.read_text(encoding="utf-8", errors="replace").splitlines()[:60]
    found = [line.strip() for line in head if wanted.fullmatch(line.strip())]
    return " · ".join(dict.fromkeys(found))


def format_tables(summary: dict[str, Any]) -> str:
    """The counts as Markdown, as the recipe's README shows them."""
    lines = ["| set | language | prompts | minutes | ASR | ST |", "|---|---|---|---|---|---|"]
    for row in summary["sets"]:
        cells = (row[key] for key in ("set", "lang", "prompts", "minutes", "asr", "st"))
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    if summary["additions"]:
        lines += ["", "| added to train | minutes | ASR | ST |", "|---|---|---|---|"]
        for row in summary["additions"]:
            lines.append(f"| {row['kind']} | {row['minutes']} | {row['asr']} | {row['st']} |")
    reasons = sorted({reason for counts in summary["dropped"].values() for reason in counts})
    lines += ["", "| left out | " + " | ".join(reasons) + " |", "|---" * (len(reasons) + 1) + "|"]
    for spk, counts in summary["dropped"].items():
        lines.append(f"| {spk} | " + " | ".join(str(counts.get(r, 0)) for r in reasons) + " |")
    return "\n".join(lines)


def get_parser() -> argparse.ArgumentParser:
    """Arguments of :func:`prepare_asterisk`, by the same names."""
    parser = argparse.ArgumentParser(description="Prepare Asterisk's voice prompts")
    parser.add_argument("--data_dir", required=True, help="where data directories are written")
    parser.add_argument("--downloads_dir", required=True, help="packages and 16 kHz audio")
    parser.add_argument("--langs", nargs="+", default=list(LANGUAGES), metavar="LANG")
    parser.add_argument(
        "--st_pairs",
        nargs="*",
        default=["all-eng", "eng-all"],
        metavar="SRC-TGT",
        help="translations; all stands for every language, nothing for none",
    )
    parser.add_argument(
        "--second_voices",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"write {UNSEEN}",
    )
    parser.add_argument("--min_seconds", type=float, default=0.15)
    parser.add_argument("--max_seconds", type=float, default=8.0)
    parser.add_argument("--dev_share", type=float, default=0.08)
    parser.add_argument("--test_share", type=float, default=0.12)
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--nj", type=int, default=1, help="threads that convert audio, processes that synthesise")
    more = parser.add_argument_group("additions to the training set")
    more.add_argument("--speeds", nargs="*", type=float, default=[], help="every recording at these speeds too")
    more.add_argument("--joined", type=int, default=0, help="rows of two or three short recordings, each voice")
    more.add_argument("--synth_voices", type=int, default=0, help="synthesised readings of each prompt")
    more.add_argument("--synth_spans", type=int, default=0, help="synthesised pieces of prompts, each language")
    more.add_argument("--synth_guide", type=int, default=0, help="synthesised pieces of a manual, each language")
    more.add_argument("--natural", type=float, default=0.0, help="share synthesised with voices trained on people")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, then print licences and counts; one line and 1 for bad input."""
    args = get_parser().parse_args(arguments)
    try:
        summary = prepare_asterisk(**vars(args))
    except (FetchError, ValueError, OSError) as error:
        print(f"prepare_asterisk: {error}", file=sys.stderr)
        return 1
    licences = Path(args.data_dir) / "licences"
    packages = defaultdict(list)
    for file in sorted(licences.glob("*.txt")):
        packages[licence_notice(file)].append(file.stem)
    for notice, names in packages.items():
        print(f"{', '.join(names)}: {notice}")
    print(f"Full licences: {licences}\n\n{format_tables(summary)}")
    return 0


def _check_langs(langs: Sequence[str]) -> None:
    unknown = [lang for lang in langs if lang not in LANGUAGES]
    if unknown or not langs or len(set(langs)) != len(langs):
        raise ValueError(f"langs must be some of {', '.join(LANGUAGES)}, each once, got {' '.join(langs)!r}")


def _keep_licences(roots: dict[str, Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for package, root in roots.items():
        shutil.copyfile(root / corpus.DOC / package / "copyright", folder / f"{package}.txt")


def _additions(utts: Iterable[Utterance]) -> list[dict[str, Any]]:
    """Rows of minutes and utterances of each kind of addition."""
    kinds = defaultdict(list)
    for utt in utts:
        kind = next((name for mark, name in KINDS if re.search(mark, utt.utt_id)), "other speeds")
        kinds[kind].append(utt)
    rows = [{"kind": kind, **_row("", "", those)} for kind, those in sorted(kinds.items())]
    return [{key: row[key] for key in ("kind", "minutes", "asr", "st")} for row in rows]


def _count(sets: dict[str, list[Utterance]]) -> list[dict[str, Any]]:
    """Rows of prompts, minutes and utterances, by set and language."""
    rows = []
    for name, utts in sets.items():
        for lang in sorted({utt.lang for utt in utts}):
            rows.append(_row(name, lang, [utt for utt in utts if utt.lang == lang]))
        if utts:
            rows.append(_row(name, "all", utts))
    order = [TRAIN, DEV, TEST, UNSEEN]
    return sorted(rows, key=lambda row: order.index(row["set"]))


def _row(name: str, lang: str, utts: Iterable[Utterance]) -> dict[str, Any]:
    tasks = Counter("asr" if utt.task == "asr" else "st" for utt in utts)
    samples = sum(utt.num_samples for utt in utts if utt.task == "asr")
    return {
        "set": name,
        "lang": lang,
        "prompts": len({utt.wav for utt in utts}),
        "minutes": round(samples / SAMPLE_RATE / 60, 1),
        "asr": tasks["asr"],
        "st": tasks["st"],
    }


if __name__ == "__main__":
    sys.exit(main())
