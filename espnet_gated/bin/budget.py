"""Budgets asked and kept: ``python -m espnet_gated.bin.budget --data_dir dump/raw/test --s2t_model_file …``.

With ``--calibrate true`` the thresholds of the learned budget are set on these utterances (the validation set, say) and
stored in the checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.utils.types import str2bool

from espnet_gated.analysis.budget_table import HEADER, LEGEND, budget_cells
from espnet_gated.analysis.scoring import write_json
from espnet_gated.analysis.table import text_table
from espnet_gated.bin.s2t_inference import with_contexts
from espnet_gated.data.contexts import read_contexts
from espnet_gated.inference.audio import Item, load_request, read_items, spread
from espnet_gated.inference.learned_budget import calibrate_thresholds, measure_shares, one_look, save_thresholds
from espnet_gated.inference.request import Request
from espnet_gated.inference.speech2text import Speech2Text
from espnet_gated.inference.writer import environment

SPARSITIES = tuple(round(0.1 * k, 1) for k in range(1, 10))


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description="Shares asked and skipped at 0.1 to 0.9; or calibrate the learned budget.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data_dir", required=True, help="data directory (wav.scp, utt2lang, utt2task)")
    add("--s2t_train_config", help="config.yaml (default: beside the checkpoint)")
    add("--s2t_model_file", required=True, help="gated checkpoint; --calibrate true changes it")
    add("--calibrate", type=str2bool, default=False, help="store thresholds of the learned budget in the checkpoint")
    add("--num_utts", type=int, default=0, help="only about so many utterances, evenly spaced within each task; 0: all")
    add("--batch_size", type=int, default=32, help="utterances encoded together")
    add("--pad_to_speech_length", type=str2bool, default=True, help="as in s2t_inference")
    add("--ngpu", type=int, default=0, help="1: on a GPU")
    add("--json", help="write the shares to this file")
    return parser


@dataclass(frozen=True)
class Batches(Sequence[list[Request]]):
    """Utterances with their contexts, read when they are needed."""

    items: Sequence[Item]
    contexts: Mapping[str, Any]
    fs: int
    size: int

    def __len__(self) -> int:
        return -(-len(self.items) // self.size)

    def __getitem__(self, number: Any) -> Any:
        if number >= len(self):
            raise IndexError(number)
        items = self.items[number * self.size : (number + 1) * self.size]
        return [with_contexts(load_request(item, self.fs), item.utt_id, self.contexts) for item in items]


def find_batches(model: Speech2Text, data_dir: Path, num_utts: int, size: int) -> Batches:
    """The utterances of a data directory, in batches."""
    if num_utts < 0 or size < 1:
        raise ValueError(f"--num_utts must be at least 0 and --batch_size at least 1, got {num_utts} and {size}")
    items = read_items(data_dir / "wav.scp", data_dir)
    if 0 < num_utts < len(items):
        items = spread(items, num_utts)
    contexts = read_contexts(data_dir, {f.name: f.kind for f in model.s2t_model.context_fields})
    return Batches(items, contexts, int(model.preprocessor_conf["fs"]), size)


def run(args: argparse.Namespace) -> None:
    """Calibrate, or measure and print."""
    model = Speech2Text(
        args.s2t_train_config,
        args.s2t_model_file,
        device="cuda" if args.ngpu > 0 else "cpu",
        beam_size=1,
        pad_to_speech_length=args.pad_to_speech_length,
    )
    known = one_look(model)
    for stack, predictor in model.s2t_model.gate_predictors().items():
        if stack in known:
            continue
        level = predictor.config.level
        print(f"budget: left out, gates of the {stack} are decided for each {level} (gating.level)", file=sys.stderr)
    if not known:  # a recipe goes on: its decodings tell what was skipped
        print(f"budget: nothing to tell of before decoding: {args.s2t_model_file}", file=sys.stderr)
        return
    batches = find_batches(model, Path(args.data_dir), args.num_utts, args.batch_size)
    number_of = len(batches.items)
    if args.calibrate:
        save_thresholds(Path(args.s2t_model_file), calibrate_thresholds(model, batches))
        print(f"{args.s2t_model_file}: thresholds of the learned budget from {number_of} utterances of {args.data_dir}")
        return
    rows = measure_shares(model, batches, SPARSITIES)
    if args.json:
        about = {"checkpoint": args.s2t_model_file, "data_dir": args.data_dir, "utterances": number_of}
        write_json(Path(args.json), environment() | about | {"shares": rows})
    print(text_table(HEADER, budget_cells(rows)))
    print(LEGEND)


def main(cmd: Sequence[str] | None = None) -> int:
    """Run the command line; exit status 1 and one clear line for bad input."""
    args = get_parser().parse_args(cmd)
    try:
        run(args)
    except (ValueError, OSError, TooShortUttError) as error:
        print(f"budget: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
