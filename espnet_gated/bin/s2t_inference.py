"""Decode a test set at a chosen sparsity.

``python -m espnet_gated.bin.s2t_inference`` takes ESPnet's ``espnet2.bin.s2t_inference`` options and some more. With
``--data_dir`` the language and
task of each utterance are read from ``utt2lang`` and ``utt2task``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.bin.s2t_inference import get_parser as get_espnet_parser
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from espnet2.utils.types import str2bool, str_or_none
from tqdm import tqdm

from espnet_gated.data.contexts import read_contexts
from espnet_gated.gating.config import parse_sparsity
from espnet_gated.inference.audio import (
    DecodeInputError,
    Item,
    batches,
    every_nth,
    load_request,
    plan,
    read_items,
    read_table,
    spread,
    symbol,
)
from espnet_gated.inference.baseline import ESPnetBaseline
from espnet_gated.inference.calibration import load_or_calibrate
from espnet_gated.inference.request import Request
from espnet_gated.inference.speech2text import Speech2Text
from espnet_gated.inference.static_mask import fix_masks
from espnet_gated.inference.true_words import TextError, word_nll
from espnet_gated.inference.writer import DecodeWriter, environment
from espnet_gated.machine import device_name
from espnet_gated.pretrained import model_files

BUDGETS = ["exact", "learned", "open", "random", "fixed"]
"""``random`` masks within the budget and one ``fixed`` mask for everyone are baselines."""

FIXED_MASK_UTTS = 60  # whose average logits make the one mask for everyone
CALIBRATION_UTTS = 8  # decoded for --rtf, or a whole batch
NLL_BATCH = 16
"""Utterances whose true words are scored together."""

# partial_ar is passed on to be refused by name.
MODEL_OPTIONS = (
    *("s2t_train_config", "s2t_model_file", "lm_train_config", "lm_file", "ngram_file", "token_type", "bpemodel"),
    *("maxlenratio", "minlenratio", "dtype", "beam_size", "ctc_weight", "lm_weight", "ngram_weight", "penalty"),
    *("nbest", "normalize_length", "quantize_s2t_model", "quantize_lm", "predict_time", "partial_ar"),
)

TIMED_OPTIONS = (
    *("beam_size", "ctc_weight", "ctc_tasks", "ctc_rescoring", "lm_weight", "ngram_weight", "penalty", "nbest"),
    *("exact_nbest", "maxlenratio", "minlenratio", "dtype", "quantize_s2t_model", "quantize_dtype", "interctc"),
    *("pad_to_speech_length", "budget", "batch_size"),
)
"""What a calibration of ``--rtf`` depends on."""


def get_parser() -> argparse.ArgumentParser:
    """ESPnet's options, and ours."""
    parser = get_espnet_parser()
    parser.description = "S2T decoding at a chosen sparsity"
    for action in parser._actions:
        if action.dest == "data_path_and_name_and_type":
            action.required = False
        if action.dest == "dtype":
            action.choices = ["bfloat16", "float16", "float32", "float64"]
    group = parser.add_argument_group("Gating related")
    group.add_argument("--sparsity", type=str_or_none, help='share to skip: "0.5", or "0.3,0.5" for encoder,decoder')
    group.add_argument("--budget", choices=BUDGETS, help="how logits become gates")
    group.add_argument("--rtf", type=float, help="real-time factor wished for: the sparsity is picked by calibration")
    group.add_argument("--calibration", type=str_or_none, help="calibration file (default: beside the checkpoint)")
    group.add_argument("--data_dir", type=str_or_none, help="data directory to decode (wav.scp, utt2lang, utt2task)")
    group.add_argument("--engine", choices=["gated", "espnet"], default="gated", help="espnet: ESPnet's own search")
    group.add_argument("--system", type=str_or_none, help="name of this system in the tables")
    group.add_argument(
        "--pad_to_speech_length",
        type=str2bool,
        default=True,
        help="pad to the training length; false: for models trained without ESPnet's S2T preprocessor, which pads",
    )
    group.add_argument("--exact_nbest", type=str2bool, help="stop where ESPnet stops (default: if nbest > 1)")
    group.add_argument("--ctc_tasks", nargs="*", help="tasks that CTC scores, e.g. asr (default: all)")
    group.add_argument(
        "--ctc_rescoring",
        type=str2bool,
        default=False,
        help="CTC scores hypotheses when they end, not token by token: faster",
    )
    group.add_argument(
        "--interctc",
        type=str2bool,
        default=True,
        help="write what the CTC of intermediate layers heard, where the model was trained with it, as ESPnet does",
    )
    group.add_argument("--measure_flops", type=str2bool, default=False, help="count FLOPs (second pass)")
    group.add_argument("--flops_every", type=int, default=10, help="count FLOPs of every n-th utterance of a task")
    group.add_argument(
        "--latency_every",
        type=int,
        help="time every n-th utterance of a task, decoded alone, and no other (default: all, in their batches)",
    )
    group.add_argument(
        "--measure_nll",
        type=str2bool,
        default=False,
        help="likelihood of the true words (text of --data_dir), untimed; not of --engine espnet",
    )
    group.add_argument("--processes", type=int, default=1, help="decoders that run side by side, for the record")
    return parser


def build(args: argparse.Namespace) -> Speech2Text | ESPnetBaseline:
    """Load the model that the options ask for."""
    options = {name: getattr(args, name) for name in MODEL_OPTIONS}
    options["device"] = "cuda" if args.ngpu > 0 else "cpu"
    options["lang_sym"], options["task_sym"] = symbol(args.lang_sym), symbol(args.task_sym)
    options["quantize_modules"], options["quantize_dtype"] = args.quantize_modules, args.quantize_dtype
    options["interctc"] = args.interctc
    if args.engine == "espnet":
        return ESPnetBaseline(**options)
    if args.model_tag is not None:
        del options["s2t_train_config"], options["s2t_model_file"]
    return Speech2Text.from_pretrained(
        args.model_tag,
        sparsity=args.sparsity,
        budget=args.budget,
        pad_to_speech_length=args.pad_to_speech_length,
        exact_nbest=args.exact_nbest,
        ctc_tasks=args.ctc_tasks,
        ctc_rescoring=args.ctc_rescoring,
        **options,
    )


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what nobody could carry out.

    Raises:
        ValueError: naming the option, its value and what is allowed.
    """
    for name in ("batch_size", "flops_every", "latency_every", "processes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value} (--{name})")
    previous = [path for path, name, _ in args.data_path_and_name_and_type or [] if name != "speech"]
    if previous:
        raise ValueError(f"{previous[0]}: only speech is read here (--data_path_and_name_and_type)")
    for name in ("word_lm_train_config", "word_lm_file"):
        if getattr(args, name) is not None:
            raise ValueError(
                f"a word LM, {getattr(args, name)}, is what ESPnet's S2T decoding has not either (--{name})"
            )
    if args.engine != "espnet":
        return
    ours = {
        "sparsity": args.sparsity is not None,
        "budget": args.budget is not None,
        "model_tag": args.model_tag is not None,
        "ctc_tasks": args.ctc_tasks is not None,
        "ctc_rescoring": args.ctc_rescoring,
        "pad_to_speech_length": not args.pad_to_speech_length,
    }
    for name, given in ours.items():
        if given:
            raise ValueError(f"--{name} {getattr(args, name)} needs --engine gated, got --engine espnet")


def _usual_sparsity(model: Any, asked: tuple[float | None, float | None]) -> dict[str, float]:
    """What each stack is asked to skip, by the caller or by the model's default: 0 where it has no gates."""
    usual = {"encoder": 0.0, "decoder": 0.0}
    if not getattr(model, "is_gated", False):
        return usual
    for stack, value in zip(usual, asked, strict=True):
        predictor = model.s2t_model.gate_predictors().get(stack)
        if predictor is not None and predictor.policy.budget != "open":
            usual[stack] = predictor.config.default_sparsity if value is None else value
    return usual


def _checkpoint(args: argparse.Namespace) -> str:
    """What is decoded: a tag or folder goes before a file."""
    return str(args.model_tag or args.s2t_model_file)


def _pick_sparsity(args: argparse.Namespace, model: Any, items: list[Item], contexts: Mapping[str, Any]) -> float:
    """The sparsity that keeps to ``--rtf`` on this machine, in batches as they are asked for."""
    if args.sparsity is not None or not getattr(model, "is_gated", False):
        raise ValueError(f"rtf {args.rtf} needs a gated model and no --sparsity (--rtf)")
    checkpoint = _checkpoint(args)
    path = Path(args.calibration or f"{checkpoint}.calibration.json")
    model.set_sparsity(None, args.budget)
    folder = Path(args.model_tag) if args.model_tag is not None else None
    weights = Path(checkpoint if folder is None or not folder.is_dir() else model_files(folder)["s2t_model_file"])
    options = {name: getattr(args, name) for name in TIMED_OPTIONS} | {
        "checkpoint": checkpoint,
        "written": weights.stat().st_mtime if weights.is_file() else None,
        "device": device_name(str(model.device)),
    }
    fs = int(model.preprocessor_conf["fs"])
    some = batches(spread(items, max(CALIBRATION_UTTS, args.batch_size)), args.batch_size, by_length=True)
    requests = [[with_contexts(load_request(i, fs), i.utt_id, contexts) for i in batch] for batch in some]
    sparsity = load_or_calibrate(path, model, requests, options).sparsity_for(args.rtf)
    logging.info("rtf %s: sparsity %s by %s", args.rtf, sparsity, path)
    return sparsity


def find_items(args: argparse.Namespace, every: bool = False) -> list[Item]:
    """The utterances to decode; ``every``: those of other processes too."""
    key_file = None if args.key_file is None or every else Path(args.key_file)
    if args.data_dir is not None:
        folder = Path(args.data_dir)
        return read_items(folder / "wav.scp", folder, key_file)
    triples = args.data_path_and_name_and_type or []
    speech = [path for path, name, _ in triples if name == "speech"]
    if len(speech) != 1:
        raise DecodeInputError("give --data_dir, or one --data_path_and_name_and_type PATH,speech,sound")
    return read_items(Path(speech[0]), Path(speech[0]).parent, key_file)


def find_contexts(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """The files ``utt2<name>`` of the data directory for the contexts that the model declares."""
    fields = getattr(model.s2t_model, "context_fields", [])
    triples = args.data_path_and_name_and_type or []
    folder = args.data_dir or next(Path(path).parent for path, name, _ in triples if name == "speech")
    return read_contexts(folder, {f.name: f.kind for f in fields})


def with_contexts(request: Request, utt: str, contexts: Mapping[str, Any]) -> Request:
    """The request with the contexts of its utterance."""
    known = {name: values[utt] for name, values in contexts.items() if utt in values}
    labels = {name: value for name, value in known.items() if isinstance(value, str)}
    return replace(request, categories=labels, vectors={n: v for n, v in known.items() if n not in labels})


def decode(args: argparse.Namespace) -> None:
    """Decode everything and write the decoding directory."""
    _check_options(args)
    asked = parse_sparsity(args.sparsity)
    items = find_items(args)
    if not items:
        raise DecodeInputError(f"{args.key_file or args.data_dir or 'wav.scp'}: no utterance to decode")
    set_all_random_seed(args.seed)
    model = build(args)
    if args.budget is not None and not getattr(model, "is_gated", False):
        raise ValueError(f"budget {args.budget} was asked of a dense checkpoint, which has no gates (--budget)")
    fs = int(model.preprocessor_conf["fs"])
    contexts = find_contexts(args, model)
    if args.rtf is not None:
        asked = (_pick_sparsity(args, model, items, contexts),) * 2
        model.set_sparsity(asked, args.budget)
    if args.budget == "fixed":
        model.set_sparsity(asked, "exact")
        everyone = find_items(args, every=True)  # one mask for all, in whatever process they are decoded
        some = spread(everyone, FIXED_MASK_UTTS)
        fix_masks(model, [with_contexts(load_request(item, fs), item.utt_id, contexts) for item in some])
    sparsity = _usual_sparsity(model, asked)
    together = args.batch_size if args.engine == "gated" else 1  # ESPnet decodes one by one
    common = {
        "engine": args.engine,
        "beam_size": args.beam_size,
        "batch_size": together if args.latency_every is None else 1,  # of what is timed
        "sparsity_encoder": sparsity["encoder"],
        "sparsity_decoder": sparsity["decoder"],
    }
    meta = environment() | common
    meta |= {
        "system": args.system or args.engine,
        "seed": args.seed,
        "processes": args.processes,
        "checkpoint": _checkpoint(args),
    }
    if args.latency_every is not None:
        meta |= {"latency_every": args.latency_every, "untimed_batch_size": together}
    meta |= {
        "dtype": args.dtype,
        "quantized": args.quantize_s2t_model,
        "budget": _budget_of(args, model),
        "device": device_name(str(model.device)),
    }
    nll = measure_nll(args, model, items, contexts, fs) if args.measure_nll and args.engine == "gated" else {}
    _warm_up(model, items[0], fs)
    counted = every_nth(items, args.flops_every) if args.measure_flops else set()
    planned, timed = plan(items, together, by_length=args.engine == "gated", latency_every=args.latency_every)
    with DecodeWriter(args.output_dir, meta) as writer, tqdm(total=len(items), unit="utt", mininterval=1.0) as bar:
        for batch in planned:
            requests = [with_contexts(load_request(item, fs), item.utt_id, contexts) for item in batch]
            results = _decode_batch(model, batch, requests)
            for item, request, result, stats in zip(batch, requests, results, model.stats, strict=True):
                measured = nll.get(item.utt_id, {}) | (_flops(model, request) if item.utt_id in counted else {})
                times = _times(stats if item.utt_id in timed else None)
                writer.write(item.utt_id, result, _stats_row(item, args, stats) | times | common | measured)
            bar.update(len(batch))


def measure_nll(
    args: argparse.Namespace, model: Speech2Text, items: list[Item], contexts: Mapping[str, Any], fs: int
) -> dict[str, dict[str, float]]:
    """``nll`` (nats) and ``nll_tokens`` of each utterance's true words.

    Raises:
        DecodeInputError: for a missing text, naming file and utterance.
    """
    file = Path(args.data_dir or ".") / "text"
    if args.data_dir is None or not file.is_file():
        raise DecodeInputError(f"{file}: no such file; --measure_nll needs a --data_dir with the true text")
    texts = read_table(file)
    if missing := [item.utt_id for item in items if item.utt_id not in texts]:
        raise DecodeInputError(f"{file}: no text of utterance {missing[0]} (--measure_nll)")
    found: dict[str, dict[str, float]] = {}
    for batch in tqdm(list(batches(items, NLL_BATCH, by_length=False)), unit="batch", desc="true words"):
        requests = [with_contexts(load_request(item, fs), item.utt_id, contexts) for item in batch]
        try:
            values = word_nll(model, requests, [texts[item.utt_id] for item in batch])
        except TextError as error:
            raise DecodeInputError(f"{file}: utterance {batch[error.number].utt_id}: {error} (--measure_nll)") from None
        except TooShortUttError as error:
            raise _too_short(batch, requests, error) from None
        found |= {i.utt_id: {"nll": v, "nll_tokens": n} for i, (v, n) in zip(batch, values, strict=True)}
    return found


def _budget_of(args: argparse.Namespace, model: Any) -> str | None:
    """What keeps the budget, for the record: what was asked for, or the model's default."""
    if args.budget is not None or not getattr(model, "is_gated", False):
        return None if args.budget is None else str(args.budget)
    return ",".join(sorted({p.config.inference_budget for p in model.s2t_model.gate_predictors().values()}))


def _decode_batch(model: Any, batch: list[Item], requests: list[Request]) -> list[Any]:
    try:
        return model.decode_batch(requests)
    except TooShortUttError as error:
        raise _too_short(batch, requests, error) from None


def _too_short(batch: list[Item], requests: list[Request], error: TooShortUttError) -> DecodeInputError:
    _, item = min(zip(requests, batch, strict=True), key=lambda pair: len(pair[0].speech))
    return DecodeInputError(f"{item.wav}: utterance {item.utt_id}: audio is too short: it {error}")


def _warm_up(model: Any, item: Item, fs: int) -> None:
    """Decode one utterance untimed: the first call allocates."""
    _decode_batch(model, [item], [load_request(item, fs)])


def _flops(model: Any, request: Request) -> dict[str, float]:
    counts = {name: value / 1e9 for name, value in model.measure_flops(request).items()}
    named = {f"gflops_{name}": value for name, value in counts.items()}
    return named | {"gflops": sum(counts.values())}


def _times(stats: Any | None) -> dict[str, float | None]:
    """Seconds of an utterance; ``None``: its time is not what is asked for."""
    if stats is None:
        return dict.fromkeys(("latency_s", "encode_s", "search_s"))
    return {"latency_s": stats.encode_s + stats.search_s, "encode_s": stats.encode_s, "search_s": stats.search_s}


def _stats_row(item: Item, args: argparse.Namespace, stats: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "lang": (item.lang or symbol(args.lang_sym) or "").strip("<>"),
        "task": (item.task or symbol(args.task_sym) or "").strip("<>"),
        "seconds": stats.seconds,
        "steps": stats.steps,
        "gflops": None,
        "gflops_encoder": None,
        "gflops_decoder": None,
    }
    for stack in ("encoder", "decoder"):
        row[f"skipped_{stack}"] = stats.skipped.get(stack, 0.0)
        row[f"gates_{stack}"] = stats.gates.get(stack, {})
        if stack in stats.by_position:
            row[f"gates_{stack}_by_position"] = stats.by_position[stack]
    return row


def main(cmd: list[str] | None = None) -> int:
    """Run the command line; exit status 1 and one clear line for bad input."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=args.log_level, format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s")
    try:
        decode(args)
    except (ValueError, OSError) as error:
        print(f"s2t_inference: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"output_dir": args.output_dir, "threads": torch.get_num_threads()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
