"""Each published finding is decided by its rule, at the edges of it."""

from pathlib import Path

import numpy as np
import pytest

from espnet_gated.analysis import findings as rules
from espnet_gated.analysis.comparisons import PRUNING_ALONE, Comparison
from espnet_gated.analysis.experiment import Decoding, GateTable, TestSet
from espnet_gated.analysis.findings import NOT_SEEN, OPPOSITE, SEEN, UNTESTABLE
from espnet_gated.analysis.metrics import PairedResult
from espnet_gated.analysis.view import View

ENCODER = ("0.feed_forward_macaron", "0.attn", "0.cgmlp", "1.attn", "1.cgmlp")
DECODER = ("0.self_attn", "0.src_attn", "0.feed_forward")


def decoding(system="gated", asked=(0.0, 0.0), wer=10.0, bleu=30.0, latency=1.0, gflops=10.0, **more) -> Decoding:
    row = {"latency_s": latency, "gflops": gflops, "wer": wer, "bleu": bleu, "n": 8}
    rows = {(task, "all", "all"): row for task in ("all", "asr", "st")}
    return Decoding(f"{system}{asked}", Path("."), system, f"{system} {asked}", asked, rows, **more)


def verdict(rule, *decodings: Decoding) -> str:
    return rule(View(TestSet("mini", "test", decodings), "gated")).verdict


@pytest.mark.parametrize(
    ("wer", "free", "hurts"),
    [(10.5, SEEN, OPPOSITE), (10.6, NOT_SEEN, NOT_SEEN), (11.0, NOT_SEEN, NOT_SEEN), (11.1, OPPOSITE, SEEN)],
)
def test_price_of_one_stack(wer, free, hurts):
    assert verdict(rules.asr_decoder_free, decoding(), decoding(asked=(0.0, 0.5), wer=wer)) == free
    assert verdict(rules.encoder_hurts, decoding(), decoding(asked=(0.7, 0.0), wer=wer)) == hurts
    both = decoding(asked=(0.7, 0.7), wer=wer)  # which stack it was cannot be told
    assert verdict(rules.asr_decoder_free, decoding(), both) == UNTESTABLE
    assert verdict(rules.encoder_hurts, decoding(), both) == UNTESTABLE


@pytest.mark.parametrize(
    ("wer", "free", "hurts"), [(0.0, SEEN, OPPOSITE), (0.1, OPPOSITE, SEEN), (None, UNTESTABLE, UNTESTABLE)]
)
def test_price_where_nothing_was_wrong_before(wer, free, hurts):
    assert verdict(rules.asr_decoder_free, decoding(wer=0.0), decoding(asked=(0.0, 0.5), wer=wer)) == free
    assert verdict(rules.encoder_hurts, decoding(wer=0.0), decoding(asked=(0.7, 0.0), wer=wer)) == hurts


@pytest.mark.parametrize(
    ("latency", "wer", "bleu", "asr", "st"),
    [
        (0.714, 10.28, 29.9, SEEN, NOT_SEEN),
        (0.657, 10.28, 29.7, SEEN, SEEN),
        (0.657, 10.29, 29.6, NOT_SEEN, NOT_SEEN),
        (1.0, 9.0, 31.0, OPPOSITE, OPPOSITE),
    ],
)
def test_time_at_half_the_decoder(latency, wer, bleu, asr, st):
    pair = decoding("control"), decoding(asked=(0.0, 0.5), wer=wer, bleu=bleu, latency=latency)
    assert (verdict(rules.asr_time, *pair), verdict(rules.st_time, *pair)) == (asr, st)


@pytest.mark.parametrize(("gflops", "expected"), [(4.0, SEEN), (4.1, NOT_SEEN), (10.0, OPPOSITE), (None, UNTESTABLE)])
def test_flops(gflops, expected):
    assert verdict(rules.flops_fall, decoding("control"), decoding(asked=(0.9, 0.9), gflops=gflops)) == expected


def test_what_our_search_saves_is_not_what_gates_save():
    """Where ESPnet's is the only dense decoding, costs are taken from the gated model at sparsity 0."""
    espnet, whole = decoding("espnet", latency=9.0, gflops=90.0), decoding()
    same = [decoding(asked=asked) for asked in ((0.0, 0.5), (0.5, 0.5))]
    for rule in (rules.asr_time, rules.st_time, rules.flops_fall, rules.latency_falls):
        assert verdict(rule, espnet, whole, *same) == OPPOSITE
        assert verdict(rule, espnet, *same) == UNTESTABLE
    assert verdict(rules.flops_fall, espnet, whole, decoding(asked=(0.7, 0.7), gflops=4.0)) == SEEN


def test_times_of_batches_are_no_latencies():
    together = [decoding(**d, decode_meta={"batch_size": 32}) for d in ({}, {"asked": (0.0, 0.5), "latency": 0.1})]
    for rule in (rules.asr_time, rules.st_time, rules.latency_falls):
        assert verdict(rule, *together) == UNTESTABLE
        assert "batches" in rule(View(TestSet("mini", "test", together), "gated")).numbers


@pytest.mark.parametrize(
    ("ci", "free"), [((0.4, 0.5), SEEN), ((-0.4, 0.6), NOT_SEEN), ((1.2, 2.0), OPPOSITE), ((0.9, 2.0), NOT_SEEN)]
)
def test_few_words_decide_nothing(ci, free):
    whole, half = decoding(), decoding(asked=(0.0, 0.5), wer=10 + sum(ci) / 2)
    result = PairedResult("wer", 10.0, 10 + sum(ci) / 2, sum(ci) / 2, ci, 0.1, 8)
    view = View(TestSet("mini", "test", [whole, half]), "gated", [Comparison(PRUNING_ALONE, whole, half, result)])
    found = rules.asr_decoder_free(view)
    assert found.verdict == free and f"{10 * ci[1]:+.1f} %" in found.numbers


def test_flops_show_the_best_decoding_that_gets_there():
    deep = [
        decoding(asked=(s, s), gflops=g, wer=w) for s, g, w in ((0.7, 3.9, 12.0), (0.9, 2.0, 30.0), (0.5, 6.0, 9.0))
    ]
    found = rules.flops_fall(View(TestSet("mini", "test", [decoding("control"), *deep]), "gated"))
    assert (
        "gated (0.7, 0.7)" in found.numbers and "10.0 → 3.90 (-61.0 %)" in found.numbers and "+20.0 %" in found.numbers
    )


@pytest.mark.parametrize(
    ("encoder", "decoder", "expected"),
    [
        ({"wer": 12.0, "latency": 0.8}, {"wer": 11.0, "latency": 0.7}, SEEN),
        ({"wer": 11.0, "latency": 0.7}, {"wer": 12.0, "latency": 0.8}, OPPOSITE),
        ({"wer": 12.0, "latency": 0.7}, {"wer": 11.0, "latency": 0.8}, NOT_SEEN),
        ({"wer": None, "bleu": None}, {"wer": 11.0}, UNTESTABLE),
    ],
)
def test_which_stack_pays_more(encoder, decoder, expected):
    pair = decoding(asked=(0.5, 0.0), **encoder), decoding(asked=(0.0, 0.5), **decoder)
    assert verdict(rules.decoder_pays_more, decoding("control"), *pair) == expected
    assert verdict(rules.decoder_pays_more, decoding("control"), pair[0]) == UNTESTABLE


def test_which_stack_pays_more_where_nothing_was_wrong_before():
    """A decoder that ruins WER does not pay, whatever time it saves."""
    pair = decoding(asked=(0.5, 0.0), wer=0.0, latency=0.8), decoding(asked=(0.0, 0.5), wer=30.0, latency=0.7)
    assert verdict(rules.decoder_pays_more, decoding(wer=0.0), *pair) == NOT_SEEN


def table(values, tasks, langs, names) -> GateTable:
    return GateTable(names, np.array(values, dtype=float), np.array(tasks), np.array(langs))


def gated(stack: str, asr, st, names, stats=()) -> Decoding:
    values = table([asr] * 20 + [st] * 20, ["asr"] * 20 + ["st"] * 20, ["deu"] * 40, names)
    asked = (0.5, 0.0) if stack == "encoder" else (0.0, 0.5)
    return decoding(asked=asked, gates={stack: values}, stats=stats)


@pytest.mark.parametrize(
    ("asr", "expected"), [((0, 0, 1, 0, 1), SEEN), ((1, 1, 0, 1, 0), OPPOSITE), ((1, 0, 1, 0, 1), NOT_SEEN)]
)
def test_asr_lives_on_cgmlp(asr, expected):
    assert verdict(rules.asr_lives_on_cgmlp, gated("encoder", asr, (1,) * 5, ENCODER)) == expected


@pytest.mark.parametrize(
    ("asr", "st", "expected"),
    [((0, 1, 0), (1, 0, 1), SEEN), ((1, 0, 1), (0, 1, 0), OPPOSITE), ((0, 1, 1), (1, 0, 1), NOT_SEEN)],
)
def test_st_needs_the_decoder(asr, st, expected):
    assert verdict(rules.st_needs_decoder, gated("decoder", asr, st, DECODER)) == expected


def test_source_attention_needs_positions():
    def rows(share):
        return [{"task": "asr", "gates_decoder_by_position": {"0.src_attn": share}}] * 3

    for share, expected in (([0] * 5 + [1] * 5, SEEN), ([1] * 5 + [0] * 5, OPPOSITE), ([1] * 10, NOT_SEEN)):
        found = gated("decoder", (1, 1, 0), (1, 1, 0), DECODER, rows(share))
        assert verdict(rules.source_attention_late, found) == expected
    assert verdict(rules.source_attention_late, gated("decoder", (1, 1, 0), (1, 1, 0), DECODER)) == UNTESTABLE


def test_all_rules_survive_an_empty_system():
    found = rules.published_findings(
        TestSet("mini", "test", [decoding(asked=(0.2, 0.2), wer=None, latency=None)]), "gated"
    )
    assert len(found) == 10 and {f.verdict for f in found} <= {UNTESTABLE, OPPOSITE, NOT_SEEN}
