"""``Speech2Text``: ESPnet's results on dense weights (law 4), batches that are their rows (law 3), and the knob."""

import dataclasses
import logging
import weakref

import pytest
import torch
from espnet2.bin.s2t_inference import Speech2Text as ESPnetSpeech2Text
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import FS, make_checkpoint, wave
from tiny_speech2text import F64, assert_same_results, load

from espnet_gated import Speech2Text
from espnet_gated.inference.baseline import ESPnetBaseline
from espnet_gated.inference.request import Request
from espnet_gated.inference.search import CachedBeamSearch

LANGS, TASKS = ("<deu>", "<ita>", "<eng>"), ("<asr>", "<st_eng>")


@pytest.fixture(scope="module")
def gated(gated_checkpoint):
    return load(gated_checkpoint)


@pytest.fixture(autouse=True)
def default_sparsity(gated):
    gated.set_sparsity(None, "exact")
    gated.pad_to_speech_length = True


# -- law 4 --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"nbest": 4, "beam_size": 4}, {"penalty": 0.5, "normalize_length": True}])
def test_dense_weights_give_espnet_s_results(gated_checkpoint, dense_checkpoint, options):
    """Dense checkpoint in ESPnet, in ours, and in a gated model whose gates are open."""
    espnet = load(dense_checkpoint, ESPnetSpeech2Text, **options)
    dense = load(dense_checkpoint, **options)
    opened = load(gated_checkpoint, sparsity=0.0, **options)
    converted = Speech2Text(gated_checkpoint.config, dense_checkpoint.weights, budget="open", **F64 | options)
    assert isinstance(dense.beam_search, CachedBeamSearch)
    for seed, call in enumerate(({}, {"lang_sym": "<ita>", "task_sym": "<st_eng>"}, {"text_prev": "ab cad"})):
        expected = espnet(wave(0.5, seed), **call)
        for speech2text in (dense, opened, converted):
            assert_same_results(speech2text(wave(0.5, seed), **call), expected)
    assert not dense.is_gated and opened.is_gated


def test_timestamps_and_long_audio_are_espnet_s(dense_checkpoint):
    espnet, ours = load(dense_checkpoint, ESPnetSpeech2Text), load(dense_checkpoint)
    assert_same_results(ours(wave(0.5), predict_time=True), espnet(wave(0.5), predict_time=True))
    two_dimensional = wave(1.5)[:, None]  # longer than the model takes, with a channel axis
    assert_same_results(ours(two_dimensional), espnet(two_dimensional))
    assert_same_results(ours(torch.tensor(wave(0.5))), espnet(torch.tensor(wave(0.5))))
    with pytest.raises(ValueError, match=r"speech must be \(samples,\) or \(samples, 1\), got \(10, 2\)"):
        ours(torch.zeros(10, 2))


def test_the_real_length_is_what_espnet_encodes_where_it_is_the_training_length(dense_checkpoint):
    """``pad_to_speech_length=False``."""
    espnet, ours = load(dense_checkpoint, ESPnetSpeech2Text), load(dense_checkpoint, pad_to_speech_length=False)
    padded = load(dense_checkpoint)
    for seconds in (0.3, 0.5):
        speech = wave(seconds)
        espnet.preprocessor_conf = espnet.preprocessor_conf | {"speech_length": seconds}
        assert_same_results(ours(speech), espnet(speech))
        assert float(ours(speech)[0][4].score) != pytest.approx(float(padded(speech)[0][4].score))
    counts = [model.measure_flops(Request(speech))["encoder"] for model in (ours, padded)]
    assert counts[0] < counts[1]


def test_intermediate_ctc_is_espnet_s(tmp_path):
    conf = {"interctc_layer_idx": [1], "interctc_use_conditioning": True}
    dense = make_checkpoint(tmp_path, gated=False, encoder_conf=conf)
    expected, expected_layers = load(dense, ESPnetSpeech2Text)(wave(0.5))
    results, layers = load(dense)(wave(0.5))
    assert_same_results(results, expected)
    assert layers == expected_layers and set(layers) == {1}


@pytest.mark.parametrize("conditioning", [False, True])
def test_intermediate_ctc_is_left_out_where_it_is_not_asked_for(tmp_path, conditioning):
    """The same words at a lower price; layers that are conditioned on it go on to be."""
    conf = {"interctc_layer_idx": [1], "interctc_use_conditioning": conditioning}
    dense = make_checkpoint(tmp_path, gated=False, encoder_conf=conf)
    told, quiet = load(dense), load(dense, interctc=False)
    assert_same_results(quiet(wave(0.5)), told(wave(0.5))[0])
    outputs = [model._encode([model._prepare(wave(0.5))], None)[0].intermediate for model in (told, quiet)]
    assert outputs[0] is not None
    assert (outputs[1] is None) == (not conditioning)
    theirs = load(dense, ESPnetBaseline, interctc=False)(wave(0.5))
    assert_same_results(quiet(wave(0.5)), theirs[0] if conditioning else theirs)


def test_steps_of_espnet_s_search_are_those_it_takes(dense_checkpoint, monkeypatch):
    """Not the length of the hypothesis that comes of it: it goes on until its ends are detected."""
    espnet = load(dense_checkpoint, ESPnetBaseline, beam_size=2)
    scored = []
    score_full = espnet.beam_search.score_full

    def counted(*args, **kwargs):
        scored.append(1)
        return score_full(*args, **kwargs)

    monkeypatch.setattr(espnet.beam_search, "score_full", counted)
    longer = []
    for seed in range(4):
        scored.clear()
        ((best, *_),) = espnet.decode_batch([Request(wave(0.5, seed), "<deu>", "<asr>")])
        assert espnet.stats[0].steps == len(scored) > 0
        longer.append(len(scored) - (len(best[4].yseq) - len(espnet.beam_search.hyp_primer)))
    assert any(steps != 0 for steps in longer)


# -- law 3 --------------------------------------------------------------------------------------------
requests = st.lists(
    st.builds(
        Request,
        speech=st.tuples(st.sampled_from([0.3, 0.45, 0.45, 0.8]), st.integers(0, 3)).map(lambda a: wave(*a)),
        lang_sym=st.sampled_from(LANGS),
        task_sym=st.sampled_from(TASKS),
        text_prev=st.sampled_from([None, None, "ab", "cad ab"]),
        predict_time=st.sampled_from([False, False, True]),
    ),
    min_size=2,
    max_size=5,
)


@given(requests=requests, sparsity=st.sampled_from([0.0, 0.3, 0.6]), pad=st.booleans())
@settings(max_examples=20)
def test_a_batch_is_its_rows(gated, requests, sparsity, pad):
    """Unequal lengths, languages, tasks, gates and primers."""
    gated.pad_to_speech_length = pad
    gated.set_sparsity(sparsity)
    together = gated.decode_batch(requests)
    stats = gated.stats
    assert len(together) == len(stats) == len(requests)
    for request, result, stat in zip(requests, together, stats, strict=True):
        alone = gated.decode_batch([request])
        assert_same_results(result, alone[0])
        assert stat.gates == gated.stats[0].gates and stat.steps == gated.stats[0].steps
        assert stat.skipped == pytest.approx(gated.stats[0].skipped, abs=1e-6)
        assert all(share >= sparsity - 1e-5 for share in stat.skipped.values())
        assert stat.seconds == pytest.approx(len(request.speech) / FS)


def test_rows_of_a_batch_run_different_modules(gated):
    """What the law above is worth."""
    gated.set_sparsity(0.5)
    gated.decode_batch([Request(wave(0.5, seed), lang_sym=lang) for seed, lang in enumerate(LANGS)])
    for stack in ("encoder", "decoder"):
        assert len({tuple(s.gates[stack].values()) for s in gated.stats}) > 1


def test_the_contexts_of_what_was_decoded_are_nobody_else_s(gated):
    """Whoever runs the model next has other utterances, and as many as they like."""
    gated.set_sparsity(0.5)
    speech = torch.stack([gated._prepare(wave(0.4, seed)) for seed in range(2)])
    masks = []
    for lang in (None, *LANGS):
        if lang:
            gated(wave(0.4), lang_sym=lang)
            gated.measure_flops(Request(wave(0.4), lang))
            gated.decide([Request(wave(0.4), lang)])
        assert all(predictor.current is None for predictor in gated.predictors().values())
        with torch.no_grad():
            gated.s2t_model.encode(speech, torch.full((2,), speech.size(1)))
        masks.append(gated.predictors()["encoder"].last.values.clone())
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_utterances_that_are_trimmed_on_the_way_are_encoded_alone(tmp_path, monkeypatch):
    """By what intermediate CTC hears: of one length before, of several behind it (``ctc_trim``)."""
    conf = {"output_size": 8, "attention_heads": 2, "linear_units": 12, "num_blocks": 2, "cnn_module_kernel": 3}
    conf |= {"interctc_layer_idx": [1], "interctc_use_conditioning": True, "ctc_trim": True}
    dense = make_checkpoint(tmp_path, gated=False, changes={"encoder": "conformer", "encoder_conf": conf})
    model = load(dense, interctc=False)
    sizes, encode = [], model.s2t_model.encode
    monkeypatch.setattr(model.s2t_model, "encode", lambda *args: sizes.append(len(args[0])) or encode(*args))
    requests = [Request(wave(0.5, seed)) for seed in range(3)]
    together = model.decode_batch(requests)
    assert sizes == [1, 1, 1]
    for request, result in zip(requests, together, strict=True):
        assert_same_results(result, model.decode_batch([request])[0])


def test_nothing_is_asked_and_nothing_answered(gated):
    gated(wave(0.3))
    assert gated.decode_batch([]) == [] and gated.stats == []


def fails(error):
    raise error("too much")


FULL = {
    "python": (MemoryError, lambda: fails(MemoryError)),
    "cuda": (torch.OutOfMemoryError, lambda: fails(torch.OutOfMemoryError)),
    "cpu": (RuntimeError, lambda: torch.empty(10**15)),  # a real one: torch has no class for it
}


@pytest.mark.parametrize("kind", FULL)
def test_a_batch_that_does_not_fit_is_halved(gated, monkeypatch, caplog, kind):
    error, allocate = FULL[kind]
    items = [Request(wave(0.3, seed), lang_sym=LANGS[seed % 3]) for seed in range(5)]
    expected = [gated.decode_batch([item])[0] for item in items]
    sizes, decode = [], gated._decode

    def limited(requests):
        sizes.append(len(requests))
        if len(requests) > 1:
            allocate()
        return decode(requests)

    monkeypatch.setattr(gated, "_decode", limited)
    with caplog.at_level(logging.WARNING):
        results = gated.decode_batch(items)
    for a, b in zip(results, expected, strict=True):
        assert_same_results(a, b)
    assert sizes == [5, 2, 1, 1, 3, 1, 2, 1, 1] and len(gated.stats) == 5
    assert "halving the batch" in caplog.text
    monkeypatch.setattr(gated, "_decode", lambda requests: allocate())
    with pytest.raises(error):
        gated.decode_batch(items[:1])


def test_other_errors_do_not_halve_the_batch(gated, monkeypatch, caplog):
    monkeypatch.setattr(gated, "_decode", lambda requests: fails(RuntimeError))
    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError, match="too much"):
        gated.decode_batch([Request(wave(0.3))] * 2)
    assert "halving" not in caplog.text


def test_a_batch_that_did_not_fit_lets_go_of_its_memory(gated, monkeypatch):
    """Before the halves are decoded: a traceback that is being handled keeps every tensor of its frames."""
    alive, decode = [], gated._decode

    def limited(requests):
        if len(requests) > 1:
            large = torch.zeros(8)
            alive.append(weakref.ref(large))
            torch.empty(10**15)
        assert alive[0]() is None
        return decode(requests)

    monkeypatch.setattr(gated, "_decode", limited)
    assert len(gated.decode_batch([Request(wave(0.3))] * 2)) == 2


# -- the knob -----------------------------------------------------------------------------------------
def test_every_utterance_keeps_the_budget_it_is_given(gated):
    for sparsity, expected in (
        (None, (0.5, 0.5)),
        (0.3, (0.3, 0.3)),
        ("0.2,0.7", (0.2, 0.7)),
        ((0.6, None), (0.6, 0.5)),
    ):
        gated.set_sparsity(sparsity)
        gated(wave(0.4))
        skipped = gated.stats[0].skipped
        assert skipped["encoder"] >= expected[0] - 1e-5 and skipped["decoder"] >= expected[1] - 1e-5
    gated(wave(0.4), sparsity=0.0)
    assert all(v == 1.0 for table in gated.stats[0].gates.values() for v in table.values())
    assert set(gated.stats[0].gates) == {"encoder", "decoder"}
    assert "0.attn" in gated.stats[0].gates["encoder"] and "1.src_attn" in gated.stats[0].gates["decoder"]


def test_the_language_can_change_the_gates(gated):
    gated.set_sparsity(0.5)
    tables = []
    for lang in LANGS:
        gated(wave(0.4), lang_sym=lang)
        tables.append(gated.stats[0].gates)
    for stack in ("encoder", "decoder"):
        assert len({tuple(table[stack].values()) for table in tables}) > 1


def test_measured_flops_fall(gated):
    counts = []
    for sparsity in (0.0, 0.6):
        gated.set_sparsity(sparsity)
        counts.append(gated.measure_flops(Request(wave(0.4))))
    assert counts[1]["encoder"] < counts[0]["encoder"] and counts[1]["decoder"] < counts[0]["decoder"]


@pytest.mark.parametrize("sparsity", [1.3, "1.3", "-0.1", (0.5, 1.0)])
def test_impossible_sparsity(gated, sparsity):
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
        gated.set_sparsity(sparsity)


def test_a_dense_checkpoint_has_no_knob(dense_checkpoint):
    with pytest.raises(ValueError, match="was asked of a dense checkpoint"):
        load(dense_checkpoint, sparsity=0.5)
    assert load(dense_checkpoint, sparsity=0.0)(wave(0.3))


def test_unknown_symbols_are_named(gated):
    with pytest.raises(ValueError, match=r"<xyz> is not in the token list \(--lang_sym\)"):
        gated(wave(0.3), lang_sym="<xyz>")
    with pytest.raises(ValueError, match=r"<st_xyz> is not in the token list \(--task_sym\)"):
        gated(wave(0.3), task_sym="<st_xyz>")


def test_another_sparsity_keeps_the_budget(gated_checkpoint):
    model = load(gated_checkpoint, sparsity=0.3, budget="random")
    model(wave(0.5), sparsity=0.5)
    for predictor in model.predictors().values():
        assert (predictor.policy.sparsity, predictor.policy.budget) == (0.5, "random")
    model.set_sparsity(0.4, "exact")
    model.set_sparsity(0.6)
    assert {p.policy.budget for p in model.predictors().values()} == {"exact"}


def test_random_masks_are_each_utterance_s_own(gated_checkpoint):
    """Where the predictor sees the context alone, logits do not tell utterances apart."""
    model = load(gated_checkpoint, sparsity=0.5, budget="random")
    for predictor in model.predictors().values():
        predictor.config = dataclasses.replace(predictor.config, condition_on=("context", "sparsity"))
    requests = [Request(wave(0.5, seed), "<deu>", task) for seed in range(6) for task in TASKS]

    def masks(batch: list[Request]) -> list[tuple[float, ...]]:
        model.decode_batch(batch)
        return [tuple(v for stack in ("encoder", "decoder") for v in s.gates[stack].values()) for s in model.stats]

    torch.manual_seed(1)
    together = masks(requests)
    assert len(set(together)) >= 8  # of 12; few modules, so that some agree by chance
    assert together == [masks([request])[0] for request in requests]
    torch.manual_seed(2)
    assert masks(requests) != together


def test_a_category_of_one_request_leaves_the_tokens_of_others_alone(gated_checkpoint):
    """Law 3 for contexts: a batch is its rows."""
    model = load(gated_checkpoint, sparsity=0.5)
    requests = [Request(wave(0.5), "<deu>", "<asr>", categories={"lang": "eng"}), Request(wave(0.5), "<ita>", "<asr>")]
    primers = [model._primer(r) for r in requests]
    together = model._context(requests, primers)
    for row, (request, primer) in enumerate(zip(requests, primers, strict=True)):
        alone = model._context([request], [primer])
        assert {name: int(rows[row]) for name, rows in together.categories.items()} == {
            name: int(rows) for name, rows in alone.categories.items()
        }
    lang = {f.name: f for f in model.s2t_model.context_fields}["lang"]
    assert together.categories["lang"].tolist() == [lang.row("eng"), lang.row("ita")]
