"""The likelihood of the true words is what the cached search would give them, under the same gates."""

from types import SimpleNamespace

import pytest
import torch
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from tiny_checkpoint import wave

from espnet_gated import Speech2Text
from espnet_gated.inference.request import Request
from espnet_gated.inference.true_words import TextError, text_ids, word_nll

TEXTS = [
    "<deu><asr><notimestamps> ab cab",
    "<ita><st_eng><notimestamps> bad",
    "<deu><st_eng><notimestamps> ba ca dab ab",
]
REQUESTS = [
    Request(wave(0.5, 1), "<deu>", "<asr>"),
    Request(wave(0.4, 2), "<ita>", "<st_eng>"),
    Request(wave(0.5, 3), "<deu>", "<st_eng>"),
]


def load(checkpoint):
    options = {"bpemodel": str(checkpoint.bpemodel), "beam_size": 1, "dtype": "float64"}
    return Speech2Text(checkpoint.config, checkpoint.weights, **options)


def by_steps(model, request, text):
    """The same number from the cached decoder, token by token."""
    ((_, (primer,), memory),) = model.begin([request])
    target = [*text_ids(model, primer, text), model.s2t_model.eos]
    cache = model.s2t_model.decoder.start(memory, None, torch.tensor([primer]))
    prefix, total = list(primer), 0.0
    with torch.no_grad():
        for token in target:
            scores, _, cache = model.s2t_model.decoder.step(torch.tensor([prefix]), cache)
            total -= float(scores.log_softmax(-1)[0, token])
            prefix.append(token)
    return total, len(target)


@pytest.mark.parametrize("sparsity", [(0.0, 0.0), (0.3, 0.6)])
def test_it_is_the_likelihood_of_the_search(gated_checkpoint, sparsity):
    model = load(gated_checkpoint)
    model.set_sparsity(sparsity)
    together = word_nll(model, REQUESTS, TEXTS)
    for request, text, (nats, tokens) in zip(REQUESTS, TEXTS, together, strict=True):
        expected, length = by_steps(model, request, text)
        assert (nats, tokens) == (pytest.approx(expected, abs=1e-6), length)


def test_dense_and_with_another_sparsity(gated_checkpoint, dense_checkpoint):
    dense, gated = load(dense_checkpoint), load(gated_checkpoint)
    gated.set_sparsity(0.0)
    opened = word_nll(gated, REQUESTS, TEXTS)
    assert word_nll(dense, REQUESTS, TEXTS) == [(pytest.approx(nats, abs=1e-6), n) for nats, n in opened]
    gated.set_sparsity(0.7)
    assert all(a[0] != pytest.approx(b[0]) for a, b in zip(word_nll(gated, REQUESTS, TEXTS), opened, strict=True))


def test_texts_with_and_without_symbols(gated_checkpoint):
    model = load(gated_checkpoint)
    ((_, (primer,), _),) = model.begin(REQUESTS[:1])
    ids = text_ids(model, primer, TEXTS[0])
    assert model.tokenizer.tokens2text(model.converter.ids2tokens(ids)).strip() == "ab cab"
    assert text_ids(model, primer, "ab cab") == ids
    with pytest.raises(TextError, match=r"the text begins with '<ita>.*, not with '<deu><asr><notimestamps>'"):
        text_ids(model, primer, TEXTS[1])


def test_tokens_of_characters_take_no_symbol_apart():
    tokens = ["<blank>", "<unk>", "<deu>", "<asr>", "<notimestamps>", "a", "b", "<space>", "<sos>", "<eos>"]
    model = SimpleNamespace(
        tokenizer=build_tokenizer("char"),
        converter=TokenIDConverter(tokens),
        s2t_model=SimpleNamespace(sos=8),
    )
    assert text_ids(model, [8, 2, 3, 4], "<deu><asr><notimestamps> ab a") == [5, 6, 7, 5]
    assert text_ids(model, [8, 2, 3, 4], "<deu><asr><0.00> ab<0.40><0.50> a<1.00>") == [5, 6, 7, 5]  # times left out
    with pytest.raises(TextError, match="not with '<deu><asr>'"):
        text_ids(model, [8, 2, 3], "<asr><deu> ab")
