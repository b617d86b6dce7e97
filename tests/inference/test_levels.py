"""``Speech2Text`` with gates that are decided on the way: laws 3 and 4 for whole searches, and the knob."""

import pytest
import torch
from espnet2.bin.s2t_inference import Speech2Text as ESPnetSpeech2Text
from tiny_checkpoint import make_checkpoint, wave

from espnet_gated import Speech2Text
from espnet_gated.gating.local import Tally
from espnet_gated.inference.request import Request
from espnet_gated.inference.search import CachedBeamSearch
from espnet_gated.inference.static_mask import fix_masks

F64 = {"dtype": "float64", "beam_size": 3, "maxlenratio": -12}
REQUESTS = [
    Request(wave(0.5), "<deu>", "<asr>"),
    Request(wave(0.3, 1), "<ita>", "<st_eng>", text_prev="ab"),
    Request(wave(0.8, 2), "<eng>", "<st_eng>"),
    Request(wave(0.4, 3), "<deu>", "<st_eng>"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    gating = {"level": "layer", "hierarchy": True}, {"level": "token"}
    return make_checkpoint(tmp_path_factory.mktemp("local"), gated=True, gating=gating)


def load(checkpoint, cls=Speech2Text, **options):
    return cls(str(checkpoint.config), str(checkpoint.weights), **F64 | options)


@pytest.mark.parametrize("budget", ["exact", "learned"])
def test_a_batch_is_its_rows(checkpoint, budget):
    model = load(checkpoint, sparsity=0.5, budget=budget)
    assert isinstance(model.beam_search, CachedBeamSearch)
    together, stats = model.decode_batch(REQUESTS), model.stats
    for request, result, stat in zip(REQUESTS, together, stats, strict=True):
        (alone,) = model.decode_batch([request])
        assert result[0][2] == alone[0][2]
        assert float(result[0][4].score) == pytest.approx(float(alone[0][4].score), abs=1e-8)
        for stack in ("encoder", "decoder"):
            assert stat.gates[stack] == pytest.approx(model.stats[0].gates[stack], abs=1e-9)
            assert budget == "learned" or stat.skipped[stack] >= 0.5 - 1e-6
    shares = {share for stat in stats for share in stat.gates["decoder"].values()}
    assert any(0.0 < share < 1.0 for share in shares)  # tokens differ


def test_espnet_s_search_decides_alike(checkpoint, monkeypatch):
    """Stock ``Speech2Text`` (no batch, no early stop, its own way of keeping states) finds the same."""
    monkeypatch.setenv("ESPNET_GATED_SPARSITY", "0.5")
    stock, ours = load(checkpoint, ESPnetSpeech2Text), load(checkpoint, sparsity=0.5)
    for seed in range(3):
        sample = torch.tensor(wave(0.5, seed))
        expected = stock(sample, lang_sym="<deu>", task_sym="<asr>")[0]
        found = ours(sample, lang_sym="<deu>", task_sym="<asr>")[0]
        assert found[2] == expected[2]
        assert float(found[4].score) == pytest.approx(float(expected[4].score), abs=1e-8)


def test_sparsity_zero_is_the_dense_model(checkpoint, dense_checkpoint):
    ours, dense = load(checkpoint, sparsity=0.0), load(dense_checkpoint)
    for request in REQUESTS:
        (one,), (other,) = ours.decode_batch([request]), dense.decode_batch([request])
        assert one[0][2] == other[0][2]
        assert float(one[0][4].score) == pytest.approx(float(other[0][4].score), abs=1e-8)


def test_a_fixed_mask_of_average_logits(checkpoint):
    model = load(checkpoint, sparsity=0.5)
    masks = fix_masks(model, REQUESTS[:2])
    model.decode_batch(REQUESTS[2:])
    for stack, mask in masks.items():
        assert list(model.stats[0].gates[stack].values()) == [float(v) for v in mask]


def test_what_an_encoder_decided_is_put_together_once_a_batch(checkpoint, monkeypatch):
    """Each time copies the gates of all utterances to the host."""
    model = load(checkpoint, sparsity=0.5)
    looks, gates = [], Tally.gates
    monkeypatch.setattr(Tally, "gates", lambda tally, soft: looks.append(tally) or gates(tally, soft))
    speech = [model._prepare(request.speech) for request in REQUESTS]
    encoded = model._encode(speech, model._context(REQUESTS, [model._primer(r) for r in REQUESTS]))
    assert len(encoded) == 4 and len(looks) == 1
    assert [e.gates["encoder"][1] for e in encoded] == [0, 1, 2, 3]


def test_gates_by_position(checkpoint):
    """Of each output position, over the hypotheses extended there; their mean is what the table says."""
    model = load(checkpoint, sparsity=0.5, budget="learned", beam_size=1, maxlenratio=-6)
    model.decode_batch(REQUESTS)
    together = [stat.by_position for stat in model.stats]
    for request, positions in zip(REQUESTS, together, strict=True):
        model.decode_batch([request])
        assert list(positions) == ["decoder"]
        (stat,) = model.stats
        steps = min(stat.steps, 6)  # the end that comes with the last allowed token costs none
        for module, shares in positions["decoder"].items():
            assert shares == stat.by_position["decoder"][module]
            assert len(shares) == steps and set(shares) <= {0.0, 1.0}
    shares = {s for p in together for module in p["decoder"].values() for s in module}
    assert shares == {0.0, 1.0}
