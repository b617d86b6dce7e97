"""``Speech2Text`` with CTC beside the decoder, or alone."""

import pytest
import torch
from tiny_checkpoint import wave
from tiny_speech2text import assert_same_results, load

from espnet_gated.inference.request import Request
from espnet_gated.inference.search import CachedBeamSearch
from espnet_gated.inference.static_mask import fix_masks
from espnet_gated.inference.true_words import word_nll

TASKS = ("<asr>", "<st_eng>")


@pytest.mark.parametrize("rescoring", [False, True])
def test_ctc_has_a_say_in_its_tasks_alone(gated_checkpoint, rescoring):
    """In a mixed batch too; elsewhere it is as if its weight were zero."""
    chosen = load(gated_checkpoint, ctc_weight=0.4, ctc_tasks=["asr"], ctc_rescoring=rescoring)
    always = load(gated_checkpoint, ctc_weight=0.4, ctc_rescoring=rescoring)
    never = load(gated_checkpoint, ctc_weight=0.0)
    requests = [Request(wave(0.4, seed), "<deu>", task) for seed, task in enumerate(TASKS * 2)]
    results = chosen.decode_batch(requests)
    differ = 0
    for request, result in zip(requests, results, strict=True):
        expected, other = (always, never) if request.task_sym == "<asr>" else (never, always)
        alone = expected.decode_batch([request])[0]
        assert result[0][4].yseq.tolist() == alone[0][4].yseq.tolist()
        assert float(result[0][4].score) == pytest.approx(float(alone[0][4].score), abs=1e-8)
        differ += float(result[0][4].score) != pytest.approx(float(other.decode_batch([request])[0][0][4].score))
    assert differ


def test_ctc_tasks_are_tokens(gated_checkpoint):
    with pytest.raises(ValueError, match=r"<st_xyz> is not in the token list \(--ctc_tasks\)"):
        load(gated_checkpoint, ctc_weight=0.4, ctc_tasks=["st_xyz"])


def test_ctc_rescores_what_it_has_a_weight_for(gated_checkpoint):
    with pytest.raises(ValueError, match=r"--ctc_weight above 0 \(--ctc_rescoring\)"):
        load(gated_checkpoint, ctc_weight=0.0, ctc_rescoring=True)
    with pytest.raises(ValueError, match=r"ESPnet's own, which cannot rescore \(--ctc_rescoring\)"):
        load(gated_checkpoint, ctc_weight=1.0, ctc_rescoring=True)


def test_ctc_does_not_score_timestamps_token_by_token(gated_checkpoint):
    """It has never heard them; tasks that are not its own have them."""
    remedy = r"\(--ctc_weight, --predict_time\).*\(--ctc_rescoring true\) or do without it \(--ctc_weight 0\)"
    one_pass = load(gated_checkpoint, ctc_weight=0.4, ctc_tasks=["asr"])
    assert one_pass(wave(0.4), task_sym="<asr>")
    with pytest.raises(ValueError, match=remedy):
        one_pass(wave(0.4), task_sym="<asr>", predict_time=True)
    with pytest.raises(ValueError, match=remedy):
        one_pass.measure_flops(Request(wave(0.4), task_sym="<asr>", predict_time=True))
    never = load(gated_checkpoint)
    call = {"speech": wave(0.4), "task_sym": "<st_eng>", "predict_time": True}
    assert_same_results(one_pass(**call), never(**call))
    with pytest.raises(ValueError, match=remedy):
        load(gated_checkpoint, ctc_weight=0.4, predict_time=True)


def test_ctc_rescores_hypotheses_with_timestamps(gated_checkpoint):
    """As the usual way of a model too, which ESPnet refuses."""
    usual = load(gated_checkpoint, ctc_weight=0.4, ctc_rescoring=True, predict_time=True)
    asked = load(gated_checkpoint, ctc_weight=0.4, ctc_rescoring=True)
    result = usual(wave(0.4))
    assert_same_results(result, asked(wave(0.4), predict_time=True))
    assert "<notimestamps>" not in result[0][1] and "ctc" in result[0][4].scores
    assert asked(wave(0.4))[0][1][2] == "<notimestamps>"


def test_a_decoder_that_does_not_run_has_no_gates(gated_checkpoint):
    """With CTC alone; what it decided for other utterances is not theirs."""
    model = load(gated_checkpoint, ctc_weight=1.0, sparsity=0.5)
    requests = [Request(wave(0.4), "<deu>", "<asr>")]
    word_nll(model, requests, ["ab cab"])
    model.decode_batch(requests)
    assert set(model.stats[0].gates) == set(model.stats[0].skipped) == {"encoder"}
    word_nll(model, requests, ["ab cab"])
    with pytest.raises(ValueError, match=r"the decoder does not run .* \(--budget fixed, --ctc_weight 1.0\)"):
        fix_masks(model, requests)


@pytest.mark.parametrize("ctc_weight", [0.3, 1.0])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_decodes_with_ctc(gated_checkpoint, dtype, ctc_weight):
    """Beside the decoder in our search, and alone in ESPnet's."""
    speech2text = load(gated_checkpoint, dtype=dtype, ctc_weight=ctc_weight)
    assert isinstance(speech2text.beam_search, CachedBeamSearch) == (ctc_weight < 1)
    (result, *_) = speech2text(wave(0.4))
    assert torch.isfinite(result[4].score)


def test_other_tasks_need_a_decoder(gated_checkpoint):
    with pytest.raises(
        ValueError, match=r"with ctc_weight 1.0 there is no decoder for the other tasks \(--ctc_tasks\)"
    ):
        load(gated_checkpoint, ctc_weight=1.0, ctc_tasks=["asr"])
