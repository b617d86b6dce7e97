"""Filter a data directory: ``python -m espnet_gated.bin.filter_data --in_dir data/train ...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from espnet_gated.bin.check_data import add_audio_options, add_length_options, get_limits
from espnet_gated.data.check import Limits
from espnet_gated.data.filter import LOG_FILE, MAX_DROPPED, filter_data_dir


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description="Write the good utterances of a data directory to another.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--in_dir", required=True, help="data directory to read")
    parser.add_argument("--out_dir", required=True, help="data directory to write")
    parser.add_argument("--fs", type=int, default=Limits().fs, help="sample rate in Hz")
    parser.add_argument(
        "--max_dropped", type=float, default=MAX_DROPPED, help="fail where a larger share of the utterances is bad"
    )
    add_audio_options(parser)
    add_length_options(parser)
    return parser


def main(cmd: Sequence[str] | None = None) -> int:
    """Filter, print what was dropped, return the exit code."""
    args = get_parser().parse_args(cmd)
    try:
        result = filter_data_dir(
            args.in_dir,
            args.out_dir,
            get_limits(args),
            max_dropped=args.max_dropped,
            decode=args.decode,
            nj=args.nj,
        )
    except (ValueError, OSError) as error:
        print(f"filter_data: {error}", file=sys.stderr)
        return 1
    if result.done_before:
        print(f"{args.out_dir}: up to date, {result.kept} utterances")
        return 0
    print(f"{args.out_dir}: kept {result.kept}, dropped {len(result.dropped)} utterances")
    for kind, count in result.counts.items():
        print(f"  {kind}: {count}")
    if result.dropped:
        print(f"  ids and reasons: {args.out_dir}/{LOG_FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
