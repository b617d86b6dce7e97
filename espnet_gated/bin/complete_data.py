"""Add what a data directory of ESPnet's S2T recipes lacks: ``python -m espnet_gated.bin.complete_data data/test``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from espnet_gated.data.complete import complete_data_dir
from espnet_gated.data.ffmpeg import MissingDecoderError


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description="Write utt2lang, utt2task, utt2num_samples and what else a directory with wav.scp and text lacks",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data_dir", nargs="+", help="data directory; what it has stays as it is")
    parser.add_argument("--fs", type=int, default=16000, help="rate that utt2num_samples counts at, Hz")
    return parser


def main(cmd: Sequence[str] | None = None) -> int:
    """Write the files; one line and 1 for bad input."""
    args = get_parser().parse_args(cmd)
    try:
        for data_dir in args.data_dir:
            written = complete_data_dir(data_dir, args.fs)
            print(f"{data_dir}: {'nothing is missing' if not written else 'wrote ' + ' '.join(written)}")
    except (ValueError, OSError, MissingDecoderError) as error:
        print(f"complete_data: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
