"""The command line of the preparations: the function's arguments by the same names."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from espnet_gated.data.ffmpeg import MissingDecoderError
from local.manifests.cut import FORMATS
from local.manifests.datadirs import format_summary

HELP = {
    "corpus_dir": "the corpus as downloaded",
    "data_dir": "where the data directories are written",
    "audio_dir": "where the audio of the segments is written",
    "langs": "spoken languages (ISO 639-3)",
    "st_pairs": "translations, SRC-TGT; all stands for every spoken language, nothing for none",
    "min_seconds": "shorter segments are left out",
    "max_seconds": "longer segments are left out",
    "audio_format": "of the segments",
    "text": "cased, with punctuation, or normalised as lhotse's recipe has it",
    "nj": "threads or processes",
    "download": "fetch the corpus into corpus_dir first",
}
CHOICES = {"audio_format": FORMATS, "text": ("cased", "normalised")}


def get_parser(prepare: Callable[..., dict[str, Any]], langs: Sequence[str]) -> argparse.ArgumentParser:
    """Options of one ``prepare_<corpus>``, out of its signature.

    Args:
        prepare: the function.
        langs: languages that the corpus has.
    """
    parser = argparse.ArgumentParser(description=(inspect.getdoc(prepare) or "").splitlines()[0])
    for name, parameter in inspect.signature(prepare).parameters.items():
        options: dict[str, Any] = {"help": HELP[name]}
        default = parameter.default
        if default is inspect.Parameter.empty:
            options["required"] = True
        elif isinstance(default, bool):
            options |= {"default": default, "action": argparse.BooleanOptionalAction}
        elif isinstance(default, tuple):
            options |= {"default": list(default), "nargs": "*" if name == "st_pairs" else "+", "metavar": "…"}
        else:
            options |= {"default": default, "type": type(default), "choices": CHOICES.get(name)}
        if name == "langs":
            options["help"] += f": {' '.join(sorted(langs))}"
        parser.add_argument(f"--{name}", **options)
    return parser


def run(prepare: Callable[..., dict[str, Any]], langs: Sequence[str], arguments: Sequence[str] | None = None) -> int:
    """Prepare and print the counts; one line and 1 for bad input."""
    args = get_parser(prepare, langs).parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        summary = prepare(**vars(args))
    except ImportError as error:  # lhotse imports what a recipe alone needs, such as datasets, when it is needed
        package = f": pip install {error.name}" if error.name else ""
        print(f"{prepare.__name__}: a package is missing: {' '.join(str(error).split())}{package}", file=sys.stderr)
        return 1
    except (ValueError, OSError, AssertionError, MissingDecoderError) as error:  # lhotse asserts what it expects
        print(f"{prepare.__name__}: {error}", file=sys.stderr)
        return 1
    print(format_summary(summary))
    return 0
