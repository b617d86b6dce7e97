"""Check a data directory: ``python -m espnet_gated.bin.check_data data/train``."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence

from espnet2.utils.types import str2bool

from espnet_gated.data.check import Limits, check_data_dir


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    default = Limits()
    parser = argparse.ArgumentParser(
        description="Check a data directory; exit code 1 when anything is wrong.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data_dir", help="data directory to check")
    parser.add_argument("--token_list", help="file with one token a line")
    parser.add_argument("--fs", type=int, default=default.fs, help="sample rate in Hz")
    parser.add_argument(
        "--any_format",
        type=str2bool,
        default=False,
        help="for a directory that is only decoded: take every format, rate and number of channels that decoding "
        "reads; utt2num_samples counts at --fs",
    )
    add_audio_options(parser)
    add_length_options(parser)
    return parser


def add_audio_options(parser: argparse.ArgumentParser) -> None:
    """How audio is looked at."""
    parser.add_argument(
        "--decode",
        type=str2bool,
        default=True,
        help="decode all audio to its end: finds damaged and silent files; false looks at heads only",
    )
    parser.add_argument("--nj", type=int, default=os.cpu_count() or 1, help="threads that look at audio")


def add_length_options(parser: argparse.ArgumentParser) -> None:
    """The options that become ``Limits``."""
    default = Limits()
    add = parser.add_argument
    add("--min_seconds", type=float, default=default.min_seconds, help="shortest audio")
    add("--max_seconds", type=float, default=default.max_seconds, help="longest audio")
    add(
        "--max_chars_per_second",
        type=float,
        default=default.max_chars_per_second,
        help="more text than this does not fit the audio",
    )
    add(
        "--min_chars_per_second",
        type=float,
        default=default.min_chars_per_second,
        help="less text than this does not fit the audio",
    )
    add("--max_text_chars", type=int, help="longest text in characters")


def get_limits(args: argparse.Namespace) -> Limits:
    """The limits asked for on the command line."""
    return Limits(
        fs=args.fs,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        max_chars_per_second=args.max_chars_per_second,
        min_chars_per_second=args.min_chars_per_second,
        max_text_chars=args.max_text_chars,
    )


def main(cmd: Sequence[str] | None = None) -> int:
    """Print one line per problem and a summary; return the exit code."""
    args = get_parser().parse_args(cmd)
    try:
        limits = get_limits(args)
    except ValueError as error:
        print(f"check_data: {error}", file=sys.stderr)
        return 1
    problems = check_data_dir(
        args.data_dir,
        args.token_list,
        limits=limits,
        decode=args.decode,
        any_format=args.any_format,
        nj=args.nj,
    )
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{args.data_dir}: no problems")
        return 0
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(p.kind for p in problems).most_common())
    print(f"{args.data_dir}: {len(problems)} problem(s): {kinds}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
