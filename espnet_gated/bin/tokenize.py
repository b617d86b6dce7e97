"""Train a BPE model with the special tokens of S2T and write ``bpe.model`` and ``tokens.txt``.

python -m espnet_gated.bin.tokenize --text data/train/text data/train/text.ctc --output_dir \
data/token_list --nbpe 400 --langs deu fra ita --tasks asr st_eng
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from espnet_gated.data.tokenizer import SpecialTokens, read_texts, train_tokenizer


def get_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_gated.bin.tokenize",
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--text", nargs="+", required=True, help="Kaldi text files of training")
    parser.add_argument("--output_dir", required=True, help="where the two files go")
    parser.add_argument("--nbpe", type=int, required=True, help="vocabulary size, special included")
    parser.add_argument("--langs", nargs="+", required=True, help="spoken languages, e.g. deu fra")
    parser.add_argument("--tasks", nargs="+", required=True, help="tasks, e.g. asr st_eng")
    parser.add_argument(
        "--time_resolution",
        type=float,
        default=0.02,
        help="seconds between time symbols; as large as --max_time for the first and last only",
    )
    parser.add_argument("--max_time", type=float, default=30.0, help="last time symbol, seconds")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, train, print where the files are; exits with a message for impossible options."""
    args = get_parser().parse_args(argv)
    try:
        special = SpecialTokens(tuple(args.langs), tuple(args.tasks), args.time_resolution, args.max_time)
        tokens = train_tokenizer(read_texts(args.text), args.output_dir, args.nbpe, special)
    except (ValueError, OSError) as error:
        sys.exit(f"tokenize: {error}")
    print(f"{args.output_dir}: bpe.model and tokens.txt with {len(tokens)} tokens")


if __name__ == "__main__":
    main()
