"""The shell part of the recipes that decodes: which decodings there are, and how one is run."""

import json
import os

import pytest
from planned_recipe import bash

DECODINGS = """
. utils/steps.sh
. utils/decoding.sh
systems="espnet control gated fixed gated+ctc" test_sets=test inference_tag= gated_name=$1
sparsities="0.5 0.0,0.5" baseline_sparsities=0.5 ctc_sparsities=0.5
dense_exp=dense dense_dir=dense control_exp=control gated_exp=exp
list_decodings
"""


def test_the_gated_model_s_decodings_have_its_name():
    listed = [line.split() for line in bash(DECODINGS, "gated_single").stdout.splitlines()]
    names = ["espnet", "control", "gated_single", "gated_single", "fixed", "gated_single+ctc"]
    assert [line[0] for line in listed] == names
    others = [line.split() for line in bash(DECODINGS, "gated").stdout.splitlines()]
    assert [line[0] for line in others] == [name.replace("_single", "") for name in names]
    assert [line[1:] for line in others] == [line[1:] for line in listed]


DECODE = """
. utils/steps.sh
. utils/decoding.sh
OMP_NUM_THREADS=1 inference_nj=$2 data=$1 python=$1/decoder inference_config=x inference_s2t_model=y seed=1
decode exp "$1/out" --sparsity 0.5
"""
DECODER = """#!/bin/bash
while [ $# -gt 0 ]; do
    case $1 in --key_file) keys=$2 ;; --output_dir) out=$2 ;; esac
    shift
done
[ "${keys##*.}" != "${FAIL:-}" ] || exit 9
mkdir -p "${out}"/{1,2}best_recog
for n in 1 2; do
    [ "${n}" = 1 ] || [[ ${keys} = *2 ]] || continue
    while read -r key _; do echo "${key} ${n}"; done <"${keys}" >"${out}/${n}best_recog/text"
done
cp "${out}/1best_recog/text" "${out}/decode_stats.jsonl"
touch "${out}/decode_meta.json"
"""


def test_a_decoding_that_was_cut_short_leaves_nothing_to_the_next(tmp_path):
    """It is done again with fewer processes: every utterance is there once, in all of the n-best list."""
    (tmp_path / "text").write_text("".join(f"u{n} a b\n" for n in range(7)))
    (tmp_path / "decoder").write_text(DECODER)
    (tmp_path / "decoder").chmod(0o755)
    assert bash(f"export FAIL=003\n{DECODE}", tmp_path, 4).returncode == 9
    result = bash(DECODE, tmp_path, 2)
    assert result.returncode == 0, result.stderr
    for name in ("1best_recog/text", "decode_stats.jsonl"):
        assert (tmp_path / "out" / name).read_text() == "".join(f"u{i} 1\n" for i in range(7))
    # one part has no second-best hypotheses at all
    assert (tmp_path / "out" / "2best_recog" / "text").read_text() == "".join(f"u{i} 2\n" for i in (1, 3, 5))
    result = bash(DECODE, tmp_path, 8)
    assert result.returncode == 1 and "more processes than utterances" in result.stderr


TAGS = """
. utils/steps.sh
. utils/decoding.sh
expdir=$1
decodings="control exp gated - $1/s2t_control_b/decode/test test
gated exp gated 0.3,0.5 $1/s2t_gated_b/decode_s0.3_0.5/test test"
refuse_rows_of_other_tags
"""


@pytest.mark.parametrize(
    ("where", "system", "asked", "refused"),
    [
        ("s2t_control/decode/test", "control", (0.0, 0.0), True),
        ("s2t_control/decode/test", "dense", (0.0, 0.0), False),
        ("s2t_control/decode/dev", "control", (0.0, 0.0), False),
        ("s2t_control_b/decode/test", "control", (0.0, 0.0), False),  # itself
        ("s2t_control_b/decode_beam/test", "control", (0.0, 0.0), True),
        ("s2t_gated/decode_s0.3_0.5/test", "gated", (0.3, 0.5), True),
        ("s2t_gated/decode_s0.5/test", "gated", (0.5, 0.5), False),
        ("s2t_gated_b/decode_s0.3_0.5/test", "gated", (0.3, 0.5), False),
    ],
)
def test_tags_share_no_rows(tmp_path, where, system, asked, refused):
    folder = tmp_path / where
    folder.mkdir(parents=True)
    meta = {"system": system, "sparsity_encoder": asked[0], "beam_size": 5, "sparsity_decoder": asked[1], "dtype": "x"}
    (folder / "decode_meta.json").write_text(json.dumps(meta, indent=2))
    result = bash(TAGS, tmp_path)
    assert result.returncode == refused
    assert (f"{folder} has the rows of '{system}' at " in result.stderr) == refused


@pytest.mark.parametrize(
    ("config", "options", "padding"),
    [
        ("beam_size: 3\n", "--batch_size 32", ""),
        ("pad_to_speech_length: false # as OWSM\n", "", "--pad_to_speech_length false"),
        ("beam_size: 3\n", "--x 1 --pad_to_speech_length=False", "--pad_to_speech_length False"),
        ("pad_to_speech_length: false\n", "--pad_to_speech_length true --x 1", "--pad_to_speech_length true"),
    ],
)
def test_budgets_are_told_of_utterances_padded_as_in_decoding(tmp_path, config, options, padding):
    (tmp_path / "decode.yaml").write_text(config)
    script = ". utils/decoding.sh; inference_config=$1/decode.yaml inference_args=$2; padding_options"
    assert bash(script, tmp_path, options).stdout.strip() == padding


def test_rows_of_earlier_runs_are_told_of(tmp_path):
    script = """
    . utils/steps.sh
    . utils/decoding.sh
    cd "$1"; expdir=exp raw=raw test_sets=test dense_exp=exp/s2t_dense dense_dir=exp/s2t_dense
    decodings=" exp/s2t_gated/decode_s0.5/test "
    tell_of_earlier_rows
    """
    old, new = 1_000_000_000, 1_100_000_000

    def touch(name, when):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))

    touch("raw/test/text", old)
    touch("exp/s2t_dense/.train.done", new)
    touch("exp/s2t_dense/decode_dense/test/decode_meta.json", new)
    touch("exp/s2t_gated/decode_s0.5/test/decode_meta.json", 1)  # of this run
    touch("exp/s2t_control/.train.done", old)
    touch("exp/s2t_control/decode/test/decode_meta.json", new)
    assert "Of an earlier dense model: exp/s2t_control/decode/test (" in bash(script, tmp_path).stdout
    touch("exp/s2t_control/.train.done", new)
    assert bash(script, tmp_path).stdout == ""
    touch("exp/s2t_control/decode/test/decode_meta.json", 1)
    assert "Earlier than the set: exp/s2t_control/decode/test (" in bash(script, tmp_path).stdout
