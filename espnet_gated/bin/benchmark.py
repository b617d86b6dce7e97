"""Measure decoding speed: ``python -m espnet_gated.bin.benchmark --arch owsm_v3.1_base --json out.json``.

ESPnet's own decoding, ours, and ours with modules skipped, in turns in one run. ``--markdown`` writes a page, from this
run or (with ``--from_json``) from earlier ones.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from espnet_gated.analysis.benchmark import BUDGETS, DTYPES, PARTS, Settings, benchmark
from espnet_gated.analysis.benchmark_page import console_table, markdown_page
from espnet_gated.inference.writer import environment
from espnet_gated.layers.small_products import takes_bfloat16


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description="Measure decoding speed on random audio: ESPnet's path, ours, ours at each sparsity.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--arch", default="owsm_v3.1_base", help="shape in conf/ (owsm_v3.1_base, _small, _medium) or config.yaml")
    add("--checkpoint", type=Path, help="weights for --arch config.yaml; random ones if not given")
    add(
        "--seconds",
        nargs="+",
        default=["30"],
        help="audio of each utterance: 30, or 4-10 for batches of unequal ones, spread evenly over this range and "
        "encoded at their real lengths (a single one is as long as the mean, which is the row's «seconds»)",
    )
    add("--beam_size", type=int, default=5)
    add("--steps", type=int, default=40, help="tokens that each hypothesis grows by")
    add("--batch_size", type=int, nargs="+", default=[1], help="utterances decoded together (ESPnet: one by one)")
    add("--sparsity", type=float, nargs="+", default=[0.0, 0.3, 0.5, 0.7], help="shares to skip; dense is always there")
    add("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="what skips")
    add(
        "--budget",
        choices=BUDGETS,
        default="random",
        help="which modules skip: random ones, or those of the predictor's masks, whose search takes time too",
    )
    add("--against", choices=["espnet", "none"], default="espnet", help="whose own path to measure too")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32"], help="of ours; all but the first: last part only")
    add("--threads", type=int, default=2, help="CPU threads")
    add("--device", default="cpu", help="cpu or cuda")
    add("--runs", type=int, default=3, help="decodes of each system; medians are reported")
    add("--seed", type=int, default=0, help="of weights and audio")
    add(
        "--ctc_weight",
        type=float,
        default=0.0,
        help="of joint decoding: ESPnet's CTC scores every step, ours the hypotheses that end, and every step in a row "
        "of its own",
    )
    add("--json", type=Path, help="write rows, spread and environment here")
    add("--markdown", type=Path, help="write a page of tables here")
    add("--from_json", type=Path, nargs="+", help="measure nothing: make the page of these files")
    return parser


def main(cmd: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the files, return the exit code."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s")
    try:
        if args.from_json:
            runs = [json.loads(path.read_text(encoding="utf-8")) for path in args.from_json]
        else:
            runs = [measure(args)]
            if args.json is not None:
                _write(args.json, json.dumps(runs[0], indent=1, ensure_ascii=False) + "\n")
        if args.markdown is not None:
            _write(args.markdown, markdown_page(runs))
        print("\n\n".join(console_table(run) for run in runs))
    except (ValueError, KeyError, OSError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark: ``environment``, ``settings``, precisions ``left_out``, ``rows`` and ``details`` (spread)."""
    if args.threads < 1:
        raise ValueError(f"threads must be at least 1, got {args.threads} (--threads)")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {args.device} is not there (--device)")
    torch.set_num_threads(args.threads)
    seconds = [_seconds(text) for text in args.seconds]
    dtypes = _worthwhile(args.dtype, args.device)
    settings = Settings(
        arch=args.arch,
        seconds=seconds[0],
        beam_size=args.beam_size,
        steps=args.steps,
        batch_size=args.batch_size[0],
        sparsity=tuple(args.sparsity),
        parts=tuple(args.parts),
        against_espnet=args.against == "espnet",
        device=args.device,
        dtypes=dtypes,
        runs=args.runs,
        seed=args.seed,
        checkpoint=args.checkpoint,
        budget=args.budget,
        ctc_weight=args.ctc_weight,
    )
    results = [result for case in benchmark(settings, seconds, args.batch_size) for result in case]
    return {
        "environment": environment(),
        "left_out": [dtype for dtype in args.dtype if dtype not in dtypes],
        "settings": {name: str(v) if isinstance(v, Path) else v for name, v in asdict(settings).items()},
        "rows": [result.row for result in results],
        "details": [{k: v for k, v in asdict(result).items() if k != "row"} for result in results],
    }


def _worthwhile(dtypes: Sequence[str], device: str) -> tuple[str, ...]:
    """Without bfloat16 on a CPU whose oneDNN takes none, where a run takes hours and shows nothing.

    Raises:
        ValueError: if nothing is left.
    """
    if device != "cpu" or "bfloat16" not in dtypes or takes_bfloat16():
        return tuple(dtypes)
    left = tuple(d for d in dtypes if d != "bfloat16")
    if not left:
        raise ValueError("oneDNN takes no bfloat16 on this processor (--dtype)")
    logging.warning("bfloat16 is left out: oneDNN takes none on this processor")
    return left


def _seconds(text: str) -> tuple[float, float]:
    """``30`` → (30, 30), ``4-10`` → (4, 10)."""
    found = re.fullmatch(r"([0-9.]+)(?:-([0-9.]+))?", text)
    if found is None:
        raise ValueError(f"seconds must be a number or SHORTEST-LONGEST, got {text!r} (--seconds)")
    return float(found[1]), float(found[2] or found[1])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
