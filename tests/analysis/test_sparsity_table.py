"""The published table: who has one, what is in it, and where it is printed."""

import json
from itertools import product

import pytest

from espnet_gated.analysis.results import Results, gather, report
from espnet_gated.analysis.sparsity_table import sparsity_tables

REFERENCES = ("control", "dense", "espnet")
LEVELS = tuple(i / 10 for i in range(1, 10))
GRID = [asked for s in LEVELS for asked in ((s, 0.0), (0.0, s), (s, s))]
REST = ("chrf", "cer", "latency_s", "rtf", "skipped_encoder", "skipped_decoder")


def rows(system, asked=(None, None), wer=20.0, bleu=30.0, langs=("deu", "fra")):
    """Rows of one decoding; French has 10 more WER and 10 less BLEU than German."""
    common = dict.fromkeys((*REST, "gflops", "gflops_encoder", "gflops_decoder"))
    common |= {"corpus": "c", "set": "test", "system": system, "n": 4}
    common |= {"sparsity_encoder": asked[0], "sparsity_decoder": asked[1]}
    out = [common | {"task": "all", "src": "all", "tgt": "all", "wer": wer, "bleu": bleu}]
    for i, lang in enumerate(("all", *langs)):
        asr = {"task": "asr", "src": lang, "tgt": lang, "wer": wer + 10 * (i == 2), "bleu": None}
        st = {"task": "st", "src": lang, "tgt": "all" if i == 0 else "eng", "wer": None, "bleu": bleu - 10 * (i == 2)}
        out += [common | asr, common | st]
    return out


def join(*parts):
    return [row for part in parts for row in part]


def test_the_published_grid():
    scored = join(*(rows("gated", asked, wer=20 + 10 * sum(asked), bleu=30 - sum(asked)) for asked in GRID))
    scored += join(rows("gated", (0.0, 0.0)), rows("control"), rows("dense", wer=25.0, bleu=29.0))
    ((title, header, cells),) = sparsity_tables(scored, REFERENCES)
    assert title == "gated: WER (%) and BLEU by what is pruned (change against control)"
    assert header == (
        *("pruned", "sparsity", "WER all", "WER deu", "WER fra"),
        *("BLEU all", "BLEU deu→eng", "BLEU fra→eng"),
    )
    levels = [f"{s:g}" for s in LEVELS]
    first = [["control", "-"], ["dense", "-"], ["none", "0"]]
    assert [row[:2] for row in cells] == first + [list(p) for p in product(("encoder", "decoder", "both"), levels)]
    assert cells[0][2:] == ["20.0", "20.0", "30.0", "30.0", "30.0", "20.0"]
    assert cells[1][2:] == [
        *("25.0 (+25.0 %)", "25.0 (+25.0 %)", "35.0 (+16.7 %)"),
        *("29.0 (-1.0)", "29.0 (-1.0)", "19.0 (-1.0)"),
    ]
    half = {row[0]: row[2:] for row in cells if row[1] == "0.5"}
    assert half["encoder"] == half["decoder"]
    assert (
        half["both"][0] == "30.0 (+50.0 %)" and half["both"][2] == "40.0 (+33.3 %)" and half["both"][5] == "19.0 (-1.0)"
    )


@pytest.mark.parametrize("left_out", [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
def test_a_point_in_each_group_is_needed(left_out):
    points = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)]
    assert sparsity_tables(join(*(rows("gated", p) for p in points)), REFERENCES)
    assert not sparsity_tables(join(*(rows("gated", p) for p in points if p != left_out)), REFERENCES)


def test_each_system_has_its_own_with_its_own_references():
    points = [(0.5, 0.0), (0.0, 0.5), (0.3, 0.5), (0.5, 0.5)]
    scored = join(*(rows(name, p) for name in ("gated", "gated_single", "gated+ctc") for p in points))
    scored += join(rows("dense"), rows("control+ctc", wer=10.0))
    tables = sparsity_tables(scored, REFERENCES)
    assert [title.partition(":")[0] for title, *_ in tables] == ["gated", "gated_single", "gated+ctc"]
    assert [title.rpartition("(")[2] for title, *_ in tables] == [
        "change against dense)",
        "change against dense)",
        "change against control+ctc)",
    ]
    assert [row[:2] for row in tables[1][2]] == [
        ["dense", "-"],
        *(["encoder", "0.5"], ["decoder", "0.5"], ["both", "0.3/0.5"], ["both", "0.5"]),
    ]
    assert tables[2][2][1][2] == "20.0 (+100.0 %)"


def test_what_is_missing_is_left_out():
    points = [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)]
    scored = join(*(rows("gated", p) for p in points))
    ((title, header, cells),) = sparsity_tables([row | {"bleu": None} for row in scored], REFERENCES)
    assert title == "gated: WER (%) and BLEU by what is pruned"
    assert header[2:] == ("WER all", "WER deu", "WER fra")
    assert cells[0] == ["encoder", "0.5", "20.0", "20.0", "30.0"]
    german = [row for row in rows("control", wer=0.0) if row["src"] != "fra"]
    ((_, _, cells),) = sparsity_tables(scored + german, REFERENCES)
    assert cells[0][2:] == ["0.0", "0.0", "-", "30.0", "30.0", "-"]
    assert cells[1][2:5] == ["20.0", "20.0", "30.0"], "no relative change from nothing"


def test_results_and_gather_with_one_model_for_each_sparsity(tmp_path):
    """The layout that ``europarl_st --setting published`` leaves behind."""

    def write(name, scored):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "score.json").write_text(json.dumps(scored))

    write("s2t_control/decode/test", rows("control"))
    write("s2t_gated/decode_s0.0/test", rows("gated", (0.0, 0.0)))
    for e, d in GRID:
        point = f"{e:g}" if e == d else f"{e:g}_{d:g}"
        write(f"s2t_gated/decode_s{point}/test", rows("gated", (e, d), wer=22.0))
        write(f"s2t_gated_target_{e:g}_{d:g}/decode_s{point}/test", rows("gated_single", (e, d), wer=21.0))
    results: Results = gather(tmp_path)
    systems = [row["system"] for row in results.rows if row["task"] == "all"]
    assert systems[:2] == ["control", "gated"] and systems.count("gated") == 28 and systems.count("gated_single") == 27
    text = report(results)
    for part in (
        "## c/test: by task and language\n\n### gated: WER (%) and BLEU by what is pruned (change against control)\n\n"
        "|pruned|sparsity|WER all|WER deu|WER fra|BLEU all|BLEU deu→eng|BLEU fra→eng|\n|---|---|---:|",
        "\n|encoder|0.1|22.0 (+10.0 %)|22.0 (+10.0 %)|32.0 (+6.7 %)|30.0 (+0.0)|",
        "### gated_single: WER (%) and BLEU by what is pruned (change against control)",
        "\n|both|0.9|21.0 (+5.0 %)|",
    ):
        assert part in text, part
