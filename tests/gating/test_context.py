"""Contexts: declared in YAML, read from training text and from search primers alike."""

from dataclasses import replace

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from espnet_gated.gating.context import (
    ContextEncoder,
    GatingContext,
    TokenContext,
    parse_fields,
    special_tokens,
)

TOKENS = ["<blank>", "<unk>", "<deu>", "<ita>", "<asr>", "<st_eng>", "<notimestamps>"]
TOKENS += ["<0.00>", "<30.00>", "a", "b", "<", "<sos>", "<eos>", "<sop>"]
ID = {token: i for i, token in enumerate(TOKENS)}
SOS, EOS, SOP = ID["<sos>"], ID["<eos>"], ID["<sop>"]
LANG_TASK = parse_fields({"lang": "token", "task": "token"}, TOKENS)


def token_context(fields=LANG_TASK):
    return TokenContext(fields, TOKENS, SOS)


def test_special_tokens_are_not_times_or_words():
    assert special_tokens(TOKENS) == (*TOKENS[:7], *TOKENS[-3:])
    assert special_tokens(["<0.00>", "<12>", "<1.20>", "a<b>", "<a b>"]) == ("<a b>",)


def test_fields_of_every_kind():
    spec = {"lang": "token", "speaker": {"vector": 192}, "device": {"category": ["phone", "server"]}}
    lang, speaker, device = parse_fields(spec, TOKENS)
    assert (lang.kind, speaker.kind, device.kind) == ("token", "vector", "category")
    assert lang.row("<deu>") == special_tokens(TOKENS).index("<deu>") + 1
    assert speaker.size == 192
    assert [device.row(v) for v in ("phone", "server", "radio", None)] == [1, 2, 0, 0]


@pytest.mark.parametrize(
    "value", ["tokens", 3, None, {}, {"vector": 0}, {"category": []}, {"vector": 2, "category": ["a"]}, ["a"]]
)
def test_malformed_fields_are_named(value):
    with pytest.raises(
        ValueError, match=r"context\.device must be 'token', \{vector: SIZE\} or \{category: \[NAMES\]\}"
    ):
        parse_fields({"device": value}, TOKENS)


def test_what_yaml_takes_for_a_boolean_is_no_category():
    values = yaml.safe_load("[de, no, se]")
    with pytest.raises(ValueError, match=r"context.country: a category is False; put it in quotes in the YAML \('no',"):
        parse_fields({"country": {"category": values}}, TOKENS)


words = st.lists(st.sampled_from([ID["a"], ID["b"], ID["<0.00>"]]), max_size=4)
head = st.tuples(st.sampled_from([ID["<deu>"], ID["<ita>"]]), st.sampled_from([ID["<asr>"], ID["<st_eng>"]]))


@given(head=head, words=words, previous=st.one_of(st.none(), words))
def test_text_and_primer_give_the_same_context(head, words, previous):
    """Also with previous text in front of the primer: the tokens behind the last <sos> count."""
    text = torch.tensor([[*head, ID["<notimestamps>"], *words]])
    front = [] if previous is None else [SOP, *previous]
    primer = torch.tensor([[*front, SOS, *head, ID["<notimestamps>"]]])
    decoder_input = torch.tensor([[*front, SOS, *text[0].tolist(), EOS, EOS]])
    context = token_context()
    expected = context.from_text(text)
    assert set(expected) == {"lang", "task"} and all(int(v) > 0 for v in expected.values())
    for ys in (primer, decoder_input):
        found = context.from_primer(ys)
        assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in expected.items()}


def test_rows_are_the_tables():
    lang = LANG_TASK[0]
    found = token_context().from_text(torch.tensor([[ID["<deu>"], ID["<asr>"]], [ID["<ita>"], ID["<st_eng>"]]]))
    assert found["lang"].tolist() == [lang.row("<deu>"), lang.row("<ita>")]
    assert found["task"].tolist() == [lang.row("<asr>"), lang.row("<st_eng>")]


@pytest.mark.parametrize("name", ["from_text", "from_primer"])
def test_words_and_padding_are_unknown(name):
    front = [] if name == "from_text" else [SOS]
    ys = torch.tensor([[*front, ID["<deu>"], ID["a"]], [*front, -1, -1], [*front, ID["<ita>"], -1]])
    found = getattr(token_context(), name)(ys)
    assert found["task"].tolist() == [0, 0, 0]
    assert found["lang"].tolist() == [LANG_TASK[0].row("<deu>"), 0, LANG_TASK[0].row("<ita>")]


@pytest.mark.parametrize("name", ["from_text", "from_primer"])
def test_short_sequences_and_no_fields(name):
    read = getattr(token_context(), name)
    assert read(torch.tensor([[ID["<deu>"]]]))["task"].tolist() == [0]
    assert read(torch.tensor([[SOS]] if name == "from_primer" else [[ID["a"]]]))["lang"].tolist() == [0]
    assert getattr(token_context([]), name)(torch.tensor([[SOS, 3], [SOS, 4]])) == {}


# -- embeddings ---------------------------------------------------------------------------------------
FIELDS = parse_fields({"lang": "token", "speaker": {"vector": 3}, "device": {"category": ["phone", "server"]}}, TOKENS)
LIKE = torch.zeros(2, 1)


def encoder(dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ContextEncoder(FIELDS, 4, dropout)


def full_context():
    return GatingContext({"lang": torch.tensor([3, 4]), "device": torch.tensor([1, 2])}, {"speaker": torch.randn(2, 3)})


def test_embeddings_are_summed():
    table, context = encoder().tables, full_context()
    expected = table["lang"](context.categories["lang"]) + table["device"](context.categories["device"])
    expected = expected + table["speaker"](context.vectors["speaker"])
    torch.testing.assert_close(encoder()(context, LIKE), expected)


def test_labels_in_training_are_found_as_in_decoding():
    (field,) = parse_fields({"lang": {"category": ["<deu>", "fra", "<fra>"]}}, TOKENS)
    labels = ["deu", "<deu>", "fra", "<fra>", "ita", "<fra"]
    codes = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(list(label.encode())) for label in labels], batch_first=True, padding_value=-1
    )
    assert field.rows_of_labels(codes).tolist() == [field.row(label) for label in labels] == [1, 1, 2, 3, 0, 0]


def test_what_is_missing_is_unknown():
    table, unknown = encoder().tables, torch.zeros(2, dtype=torch.long)
    expected = table["lang"](unknown) + table["device"](unknown)
    for context in (None, GatingContext(), GatingContext({"lang": unknown})):
        torch.testing.assert_close(encoder()(context, LIKE), expected)


def test_dropout_drops_whole_fields_in_training_only():
    module, context = encoder(dropout=0.5), full_context()
    torch.testing.assert_close(module.eval()(context, LIKE), encoder()(context, LIKE))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = {tuple(module.train()(context, LIKE)[0].tolist()) for _ in range(200)}
    assert len(rows) == 2 ** len(FIELDS)
    torch.testing.assert_close(encoder(dropout=1.0).train()(context, LIKE), encoder()(None, LIKE))


def test_a_context_of_another_batch_is_refused():
    with pytest.raises(ValueError, match="context 'lang' is for 2 utterances, the batch has 3"):
        encoder()(full_context(), torch.zeros(3, 1))


def test_contexts_as_values():
    context = replace(full_context(), sparsity={"encoder": torch.tensor([0.1, 0.2])})
    row = context.select(torch.tensor([1]))
    assert row.categories["lang"].tolist() == [4] and row.sparsity["encoder"].tolist() == pytest.approx([0.2])
    assert row.vectors["speaker"].shape == (1, 3)
