"""Law 2 in cached decoding: skipping with a key/value cache equals the whole graph with the gates multiplied in."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SIZE, SOS, VOCAB, decoders, features, fixed_gates, masks

from espnet_gated.gating.gates import ModuleGate
from espnet_gated.inference.cache import DecoderCache

EXACT = {"rtol": 0.0, "atol": 1e-12}
OPTIONS = {
    "pre_norm": {},
    "post_norm": {"normalize_before": False},
    "concat_after": {"concat_after": True},
    "qk_norm": {"qk_norm": True},
}
every_option = pytest.mark.parametrize("name", OPTIONS)


@cache
def decoder(name):
    return decoders(num_blocks=2, **OPTIONS[name])[1]


def masked_graph(decoder, memory, mask, ys, values):
    """Scores of the last position of ESPnet's graph with gates multiplied in.

    Args:
        values: (rows, M) per utterance or (rows, L, M) per token.
    """
    x = decoder.embed(ys)
    causal = torch.ones(1, ys.size(1), ys.size(1), dtype=torch.bool).tril()
    names = decoder.gate_predictor.names
    for index, layer in enumerate(decoder.decoders):
        gates = {n: ModuleGate(values[..., m], soft=True) for m, (at, n) in enumerate(names) if at == index}
        x = layer(x, causal, memory, mask, gates=gates)[0]
    hidden = decoder.after_norm(x[:, -1]) if decoder.normalize_before else x[:, -1]
    return decoder.output_layer(hidden)


def memories(lengths, seed=0):
    memory, lens = features(*lengths, seed=seed, size=SIZE)
    return memory, (torch.arange(max(lengths)) < lens[:, None])[:, None]


class Rows:
    """Hypotheses that a test decodes with the cache, and the same ones as whole prefixes."""

    def __init__(self, name, lengths, primer=2, per_token=False):
        self.decoder = decoder(name)
        self.memory, self.mask = memories(lengths)
        self.utts = list(range(len(lengths)))
        self.ys = torch.randint(0, VOCAB, (len(lengths), primer), generator=torch.Generator().manual_seed(1))
        self.ys[:, 0] = SOS
        self.cache = DecoderCache.start(self.decoder.decoders, self.memory, self.mask, None, per_token)
        self.values = torch.zeros(len(lengths), 0, len(self.decoder.gate_predictor.names))

    def set_gates(self, mask):
        """Gates (U, M) for the positions that the next step decodes."""
        self.cache = replace(self.cache, gates=fixed_gates(self.decoder, mask))
        new = self.ys.size(1) - self.values.size(1)
        self.values = torch.cat([self.values, mask[self.utts][:, None].expand(-1, new, -1)], dim=1)

    def check_step(self):
        """One step with the cache: the scores of the masked graph."""
        scores, _, self.cache = self.decoder.step(self.ys, self.cache)
        assert self.cache.length == self.ys.size(1)
        expected = masked_graph(
            self.decoder, self.memory[self.utts], self.mask[self.utts], self.ys, self.values.double()
        )
        torch.testing.assert_close(scores, expected, **EXACT)

    def extend(self, rows, tokens):
        """Go on with some rows (repeats allowed), each with a new token."""
        self.cache = self.cache.select(rows)
        self.utts = [self.utts[r] for r in rows]
        assert self.cache.utt_of_row == tuple(self.utts)
        self.ys = torch.cat([self.ys[rows], torch.tensor(tokens)[:, None]], dim=1)
        self.values = self.values[rows]

    def keep(self, kept):
        """Go on with some utterances only."""
        self.cache = self.cache.drop_utterances(kept)
        rows = [r for r, utt in enumerate(self.utts) if utt in kept]
        self.utts = [kept.index(self.utts[r]) for r in rows]
        self.ys, self.values = self.ys[rows], self.values[rows]
        self.memory, self.mask = self.memory[kept], self.mask[kept]


def draw_rows(data, rows, per_utt):
    """Chosen rows in ascending order of utterances: reordered and repeated inside one, every utterance kept."""
    chosen = []
    for utt in sorted(set(rows.utts)):
        own = [r for r, u in enumerate(rows.utts) if u == utt]
        chosen += data.draw(st.lists(st.sampled_from(own), min_size=1, max_size=per_utt))
    return chosen


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=3)
token = st.integers(0, VOCAB - 1)


@every_option
@given(data=st.data(), lengths=lengths, primer=st.integers(1, 4))
@torch.no_grad()
def test_cached_steps_are_the_masked_graph(name, data, lengths, primer):
    """Gates of the utterance, in batches that mix utterances, whose beams branch and end."""
    rows = Rows(name, lengths, primer)
    mask = data.draw(masks(rows.decoder, len(lengths)))
    rows.set_gates(mask)
    rows.check_step()
    for _ in range(4):
        chosen = draw_rows(data, rows, per_utt=3)
        rows.extend(chosen, data.draw(st.lists(token, min_size=len(chosen), max_size=len(chosen))))
        if rows.memory.size(0) > 1 and data.draw(st.booleans()):
            gone = data.draw(st.integers(0, rows.memory.size(0) - 1))
            kept = [u for u in range(rows.memory.size(0)) if u != gone]
            mask = mask[kept]
            rows.keep(kept)
        rows.values = mask[rows.utts][:, None].expand(-1, rows.ys.size(1), -1)
        rows.check_step()


@every_option
@given(data=st.data(), lengths=lengths, primer=st.integers(1, 4))
@torch.no_grad()
def test_gates_per_token_are_the_masked_graph(name, data, lengths, primer):
    """Gates that change at every step: a self-attention that opens late still finds the keys it skipped."""
    rows = Rows(name, lengths, primer, per_token=True)
    for step in range(5):
        if step:
            chosen = draw_rows(data, rows, per_utt=2)
            rows.extend(chosen, data.draw(st.lists(token, min_size=len(chosen), max_size=len(chosen))))
        rows.set_gates(data.draw(masks(rows.decoder, len(lengths))))
        rows.check_step()


@pytest.mark.parametrize("per_token", [False, True])
@given(data=st.data())
@settings(max_examples=10)
@torch.no_grad()
def test_old_caches_stay_usable(per_token, data):
    """A search may hold any cache, branch off it twice, or go on from it after others did."""
    model = decoder("pre_norm")
    memory, mask = memories([6, 4])
    values = data.draw(masks(model, 2))
    start = DecoderCache.start(model.decoders, memory, mask, fixed_gates(model, values), per_token)
    nodes = [(start, torch.tensor([[SOS], [SOS]]), [0, 1])]
    for _ in range(8):
        cache, ys, utts = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        scores, _, cache = model.step(ys, cache)
        expected = masked_graph(model, memory[utts], mask[utts], ys, values[utts].double())
        torch.testing.assert_close(scores, expected, **EXACT)
        rows = sorted(data.draw(st.lists(st.integers(0, len(ys) - 1), min_size=1, max_size=3)))
        tokens = data.draw(st.lists(token, min_size=len(rows), max_size=len(rows)))
        nodes.append(
            (cache.select(rows), torch.cat([ys[rows], torch.tensor(tokens)[:, None]], 1), [utts[r] for r in rows])
        )


@torch.no_grad()
def test_a_cache_grows_past_its_first_buffer():
    rows = Rows("pre_norm", [5, 3], primer=30)
    rows.set_gates(torch.ones(2, 6))
    rows.check_step()
    for step in range(40):
        rows.extend([0, 1], [step % VOCAB, (3 * step) % VOCAB])
        rows.values = torch.ones(2, rows.ys.size(1), 6)
        if step % 4 == 3:  # several new positions at once are allowed too
            rows.check_step()


@torch.no_grad()
def test_skipped_keys_are_projected_only_when_wanted():
    """With gates per token a closed self-attention keeps its inputs and projects none of them."""
    model = decoder("pre_norm")
    memory, mask = memories([4])
    cache = DecoderCache.start(model.decoders, memory, mask, fixed_gates(model, torch.zeros(1, 6)), per_token=True)
    ys = torch.tensor([[SOS]])
    for _ in range(3):
        _, _, cache = model.step(ys, cache)
        ys = torch.cat([ys, ys[:, -1:]], dim=1)
    assert [len(layer.pending) for layer in cache.layers] == [3, 3]
    assert all(layer.self_kv.length == 0 for layer in cache.layers)
    _, _, cache = model.step(ys, replace(cache, gates=fixed_gates(model, torch.ones(1, 6))))
    assert all(layer.self_kv.length == 4 and not layer.pending for layer in cache.layers)
