"""Gather scores: ``python -m espnet_gated.bin.results --expdir exp``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from espnet_gated.analysis.results import gather, main_table, overall


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description="Gather every score.json below a directory into results.json and RESULTS.md."
    )
    parser.add_argument("--expdir", required=True, help="experiment directory")
    return parser


def main(cmd: Sequence[str] | None = None) -> int:
    """Write both files, print the main table, return the exit code."""
    args = get_parser().parse_args(cmd)
    try:
        results = gather(args.expdir)
        results.write(args.expdir)
    except (ValueError, OSError) as error:
        print(f"results: {error}", file=sys.stderr)
        return 1
    for (corpus, name), rows in overall(results.rows).items():
        print(f"{corpus}/{name}, {rows[0]['n']} utterances")
        print(main_table(rows), end="\n\n")
    print(f"details: {args.expdir}/RESULTS.md, {args.expdir}/results.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
