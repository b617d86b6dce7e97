"""Score a decoding directory: ``python -m espnet_gated.bin.score --ref data/test ...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from espnet_gated.analysis import metrics
from espnet_gated.analysis.scoring import score_decode_dir
from espnet_gated.analysis.table import number, text_table, with_interval


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description="Score a decoding directory; write score.json and score_meta.json into it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--ref", required=True, help="data directory with the references")
    add("--decode_dir", required=True, help="decoding directory")
    add("--corpus", required=True, help="name of the corpus")
    add("--set", dest="set_name", required=True, help="name of the set, e.g. test")
    add("--system", required=True, help="name of the system, e.g. espnet, dense, control, gated")
    add("--resamples", type=int, default=metrics.RESAMPLES, help="bootstrap resamples")
    add("--seed", type=int, default=metrics.SEED, help="seed of the WER and CER bootstrap")
    return parser


def main(cmd: Sequence[str] | None = None) -> int:
    """Score, print a short table, return the exit code."""
    args = get_parser().parse_args(cmd)
    try:
        metrics.check_resamples(args.resamples)
        rows = score_decode_dir(
            args.ref,
            args.decode_dir,
            corpus=args.corpus,
            set_name=args.set_name,
            system=args.system,
            n_resamples=args.resamples,
            seed=args.seed,
        )
    except (ValueError, OSError) as error:
        print(f"score: {error}", file=sys.stderr)
        return 1
    header = ["task", "src", "tgt", "n", "WER", "CER", "BLEU", "chrF", "RTF"]
    cells = [
        [
            row["task"],
            row["src"],
            row["tgt"],
            str(row["n"]),
            with_interval(row["wer"], row["wer_ci"]),
            number(row["cer"]),
            with_interval(row["bleu"], row["bleu_ci"]),
            number(row["chrf"]),
            number(row["rtf"], 2),
        ]
        for row in rows
    ]
    print(f"{args.system} on {args.corpus}/{args.set_name}")
    print(text_table(header, cells, n_left=3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
