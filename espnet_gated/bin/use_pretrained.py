"""Tokens and checkpoint of a public model: ``python -m espnet_gated.bin.use_pretrained --model … --output_dir …``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from espnet_gated.pretrained import use_pretrained


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description="Take tokens and checkpoint of a public model")
    parser.add_argument("--model", required=True, help="folder, or tag such as espnet/owsm_v3.1_ebf_base")
    parser.add_argument("--output_dir", required=True, help="gets bpe.model, tokens.txt and a link model.pth")
    parser.add_argument("--langs", nargs="+", default=[], metavar="LANG", help="must be in its token list")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="must be in its token list")
    return parser


def main(cmd: Sequence[str] | None = None) -> int:
    """Write the files; one line and 1 for bad input."""
    args = get_parser().parse_args(cmd)
    try:
        files = use_pretrained(args.model, args.output_dir, args.langs, args.tasks)
    except (ValueError, OSError) as error:
        print(f"use_pretrained: {error}", file=sys.stderr)
        return 1
    print(f"{args.output_dir}: {len(files.token_list)} tokens and the checkpoint {files.checkpoint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
