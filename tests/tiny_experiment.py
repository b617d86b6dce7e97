"""Experiments of made-up decodings, and the page that the report makes of them."""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from espnet_gated.analysis import plots
from espnet_gated.bin import report as report_bin
from espnet_gated.data.datadir import Utterance, write_data_dir

ENCODER = ("0.feed_forward_macaron", "0.attn", "0.cgmlp", "1.attn", "1.cgmlp")
DECODER = ("0.self_attn", "0.src_attn", "0.feed_forward")
TEXT = "one two three four five six"
# (encoder, decoder) -> gates of ASR and of ST
GATES = {
    "encoder": {"asr": (0, 0, 1, 0, 1), "st_eng": (1, 1, 0, 0, 1)},
    "decoder": {"asr": (0, 1, 0), "st_eng": (1, 0, 1)},
}


def utterances(langs=("deu", "fra")) -> list[Utterance]:
    return [
        Utterance(f"{lang}{i}-{task}", f"{lang}{i}.wav", f"{lang}{i}", lang, task, TEXT, "<na>", 16000)
        for lang in langs
        for i in range(4)
        for task in ("asr", "st_eng")
    ]


def decode(exp: Path, utts, system: str, asked=(0.0, 0.0), wrong=0, latency=1.0, gflops=10.0, drop=(), **extra) -> Path:
    """A scored decoding directory; ``wrong`` words of each hypothesis differ from the reference."""
    directory = exp / f"{system}_{asked[0]}_{asked[1]}"
    (directory / "1best_recog").mkdir(parents=True)
    hyp = " ".join(["zero"] * wrong + TEXT.split()[wrong:])
    hyps = "".join(f"{u.utt_id} {hyp}\n" for u in utts)
    (directory / "1best_recog" / "text_nospecial").write_text(hyps)
    lines = []
    for i, u in enumerate(utts):
        row = {"utt_id": u.utt_id, "lang": u.lang, "task": u.task, "seconds": 2.0, "latency_s": latency}
        row |= {"encode_s": 0.4 * latency, "search_s": 0.6 * latency, "steps": 6, "gflops": gflops}
        row |= {"sparsity_encoder": asked[0], "sparsity_decoder": asked[1]}
        for stack, share, names in (("encoder", asked[0], ENCODER), ("decoder", asked[1], DECODER)):
            values = GATES[stack][u.task] if share else (1,) * len(names)
            row[f"gates_{stack}"] = dict(zip(names, map(float, values), strict=True))
            row[f"skipped_{stack}"] = share + (0.06 if share and i == 0 else 0.0)
        lines.append(json.dumps({k: v for k, v in (row | extra).items() if k not in drop}))
    (directory / "decode_stats.jsonl").write_text("\n".join(lines) + "\n")
    meta = {
        "versions": {"torch": "9.9"},
        "machine": {"cpu": "Fast <CPU>"},
        "threads": 1,
        "seed": 7,
        "command": "decode me",
    }
    (directory / "decode_meta.json").write_text(json.dumps(meta))
    n, wer = len(utts), 100 * wrong / 6
    rows = [scores(system, asked, task, n, wer, latency, gflops) for task in ("all", "asr", "st")]
    (directory / "score.json").write_text(json.dumps(rows))
    signatures = {"signatures": {"bleu": "tok:13a"}, "normalization": {"name": "some-rule", "rule": "lower case"}}
    (directory / "score_meta.json").write_text(json.dumps(signatures | {"ref": str(exp.parent / "ref")}))
    return directory


def scores(system, asked, task, n, wer, latency, gflops) -> dict:
    row = {"corpus": "mini", "set": "test", "system": system, "task": task, "n": n}
    row |= {"src": "all", "tgt": "all"}
    row |= {"sparsity_encoder": asked[0], "sparsity_decoder": asked[1], "sparsity": sum(asked) / 2}
    row |= {"skipped_encoder": asked[0], "skipped_decoder": asked[1], "latency_s": latency, "rtf": latency / 2}
    row |= {"gflops": gflops, "gflops_encoder": gflops, "gflops_decoder": gflops}
    asr, st = task != "st", task != "asr"
    row |= {"wer": wer if asr else None, "cer": 1.0 if asr else None, "wer_ci": [wer - 1, wer + 1] if asr else None}
    return row | {"bleu": 40.0 - wer if st else None, "chrf": 50.0 if st else None, "bleu_ci": None}


def build(tmp_path: Path) -> Path:
    """The dense control, a gated system at four sparsities and a fixed mask."""
    utts = utterances()
    write_data_dir(tmp_path / "ref", utts)
    exp = tmp_path / "exp"
    decode(exp, utts, "control", wrong=1)
    decode(exp, utts, "gated", wrong=1)
    decode(exp, utts, "gated", (0.0, 0.5), wrong=1, latency=0.6, gflops=7.0)
    decode(exp, utts, "gated", (0.5, 0.0), wrong=2, latency=0.8, gflops=6.0)
    decode(exp, utts, "gated", (0.7, 0.7), wrong=3, latency=0.5, gflops=3.0)
    decode(exp, utts, "fixed", (0.0, 0.5), wrong=3, latency=0.6, gflops=7.0)
    return exp


class Reader(HTMLParser):
    """Collects what a page loads, its pictures, its table cells and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.pictures: list[bytes] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "src" and value.startswith("data:image/png;base64,"):
                self.pictures.append(base64.b64decode(value.partition(",")[2]))
            elif name in ("src", "href", "srcset", "data") and not value.startswith("#"):
                self.loads.append(value)

    def handle_data(self, data):
        if self.tags and self.tags[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split()).replace("\u202f", " ")


def run(exp: Path, *options: str) -> Reader:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "DPI", 40)  # coarse pictures are fast
        assert report_bin.main(["--expdir", str(exp), "--resamples", "20", *options]) == 0
    return Reader((exp / "report" / "report.html").read_text(encoding="utf-8"))


TWO = (("control", (0.0, 0.0)), ("gated", (0.5, 0.5)))


def small(tmp_path, langs=("deu",), tasks=("asr", "st_eng"), systems=TWO, **kw):
    utts = [u for u in utterances(langs) if u.task in tasks]
    write_data_dir(tmp_path / "ref", utts)
    for system, asked in systems:
        decode(tmp_path / "exp", utts, system, asked, **kw)
    return tmp_path / "exp"
