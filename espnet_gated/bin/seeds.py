"""Compare several trainings of a recipe: ``python -m espnet_gated.bin.seeds --expdirs exp seeds/2/exp``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from espnet_gated.analysis.experiment import read_experiment
from espnet_gated.analysis.metrics import RESAMPLES, check_resamples
from espnet_gated.analysis.seeds import seed_tables
from espnet_gated.analysis.table import markdown_table, text_table


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description="Wrong words, BLEU and likelihood of each system over several trainings, against a reference's",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--expdirs", required=True, nargs="+", help="scored experiments (stage 8), one a training")
    parser.add_argument("--against", default="control", help="the reference system")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap over utterances")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    return parser


def main(cmd: Sequence[str] | None = None) -> int:
    """Print a table for each test set, return the exit code."""
    args = get_parser().parse_args(cmd)
    try:
        experiments = [read_experiment(expdir) for expdir in args.expdirs]
        tables = seed_tables(experiments, args.against, check_resamples(args.resamples))
    except (ValueError, OSError) as error:
        print(f"seeds: {error}", file=sys.stderr)
        return 1
    table = markdown_table if args.markdown else text_table
    print("\n\n".join(f"{title}\n{table(header, rows)}" for title, header, rows in tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
