"""Compare the speed of decodings: ``python -m espnet_gated.bin.speed --decode_dirs DIR ...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from espnet_gated.analysis.speed import HEADER, speed_row
from espnet_gated.analysis.table import text_table


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description="Print latency, its parts and FLOPs of decoding directories, a row each."
    )
    parser.add_argument("--decode_dirs", nargs="+", required=True, help="decoding directories")
    return parser


def main(cmd: Sequence[str] | None = None) -> int:
    """Print the table, return the exit code."""
    args = get_parser().parse_args(cmd)
    try:
        rows = [speed_row(directory) for directory in args.decode_dirs]
    except (ValueError, KeyError, OSError) as error:
        print(f"speed: {error}", file=sys.stderr)
        return 1
    print(text_table(HEADER, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
