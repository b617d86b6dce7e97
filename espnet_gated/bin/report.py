"""The report of an experiment: ``python -m espnet_gated.bin.report --expdir exp``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_gated.analysis.metrics import RESAMPLES, check_resamples


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description="Make report.html (one self-contained page) and its figures as PNGs from the scores, statistics "
        "and gates below an experiment directory.",
    )
    add = parser.add_argument
    add("--expdir", required=True, help="experiment directory, with scored decodings somewhere below")
    add("--output_dir", help="where report.html and the PNGs go (default: EXPDIR/report)")
    add("--gated", help="the gated system to report on (default: gated, or the one decoded at most sparsities)")
    add("--resamples", type=int, default=RESAMPLES, help="resamples of the paired bootstrap (default: %(default)s)")
    return parser


def main(cmd: Sequence[str] | None = None) -> int:
    """Write the report, print its main results, return the exit code."""
    args = get_parser().parse_args(cmd)
    try:
        from espnet_gated.analysis.report import make_report
    except ModuleNotFoundError as error:
        print(f"report: needs {error.name}: pip install 'espnet_gated[mini]'", file=sys.stderr)
        return 1
    try:
        report = make_report(args.expdir, args.gated, check_resamples(args.resamples))
        path = report.page.write(args.output_dir or Path(args.expdir) / "report")
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    for line in report.summary:
        print(f"- {line}")
    print(f"report: {path} and {len(report.page.pictures)} figures beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
