"""CTC prefix scores that start at the first real token: checked against the sum over all alignments."""

from functools import cache
from itertools import groupby, product

import numpy as np
import pytest
import torch
from espnet.nets.scorers.ctc import CTCPrefixScorer
from hypothesis import given
from hypothesis import strategies as st

from espnet_gated.inference.ctc import LOG_ZERO, CTCRescorer, PrimedCTCPrefixScorer

BLANK, EOS, LABELS = 0, 4, (1, 2, 3)
VOCAB = 5


class Posteriors:
    """Stands for a CTC layer: its input is the log-posteriors already."""

    @staticmethod
    def log_softmax(x):
        return x


@cache
def posteriors(frames, seed):
    generator = torch.Generator().manual_seed(seed)
    return (2.0 * torch.randn(frames, VOCAB, generator=generator, dtype=torch.float64)).log_softmax(-1)


@cache
def labellings(frames, seed):
    """Probability of every label sequence: the sum over all its alignments."""
    logp, found = posteriors(frames, seed).numpy(), {}
    for path in product(range(VOCAB), repeat=frames):
        labels = tuple(label for label, _ in groupby(path) if label != BLANK)
        found[labels] = found.get(labels, 0.0) + np.exp(sum(logp[t, label] for t, label in enumerate(path)))
    return found


def prefix_logp(frames, seed, labels, ended=False):
    """log P(the sequence starts with ``labels``), or that it is them."""
    table = labellings(frames, seed)
    hits = (p for s, p in table.items() if (s == labels if ended else s[: len(labels)] == labels))
    return np.log(max(sum(hits), 1e-300))


def scorer(primer=None):
    made = PrimedCTCPrefixScorer(Posteriors(), EOS)
    made.set_primer(primer)
    return made


def assert_brute_force(scores, frames, seed, labels):
    """Scores of the next token of a hypothesis are the differences of summed alignments."""
    before = prefix_logp(frames, seed, labels)
    for token in (*LABELS, EOS):
        now = prefix_logp(frames, seed, labels if token == EOS else (*labels, token), ended=token == EOS)
        if now < -100:
            assert scores[token] < -1e4  # more labels than frames: no alignment at all
        else:
            assert float(scores[token]) == pytest.approx(now - before, abs=1e-8)


primers = st.lists(st.integers(1, EOS), min_size=1, max_size=5)
words = st.lists(st.sampled_from(LABELS), max_size=3).map(tuple)


@given(primer=primers, labels=words, frames=st.integers(4, 5), seed=st.integers(0, 2))
def test_scores_are_the_sum_over_alignments(primer, labels, frames, seed):
    """Both ways ESPnet's searches ask: a batch of hypotheses, and one of them."""
    x = posteriors(frames, seed)
    batch, single = scorer(primer), scorer(primer)
    states, state = [batch.batch_init_state(x)] * 2, single.init_state(x)
    ids = torch.arange(1, VOCAB)
    for n in range(len(labels) + 1):
        if prefix_logp(frames, seed, labels[:n]) < -100:
            break
        y = torch.tensor([*primer, *labels[:n]])
        scores, new = batch.batch_score_partial(torch.stack([y, y]), None, states, x)
        assert_brute_force(scores[1], frames, seed, labels[:n])
        partial, after = single.score_partial(y, ids, state, x)
        likely = scores[0, 1:] > -1e4  # ESPnet computes single hypotheses in float32
        torch.testing.assert_close(partial[likely], scores[0, 1:][likely], rtol=0, atol=1e-4)
        if n < len(labels):
            states = [batch.select_state(new, i, labels[n]) for i in range(2)]
            state = single.select_state(after, labels[n] - 1)


@given(labels=words, frames=st.integers(4, 6), seed=st.integers(0, 2), first=st.integers(1, EOS))
def test_one_start_token_is_espnet(labels, frames, seed, first):
    x = posteriors(frames, seed)
    ours, theirs = scorer([first]), CTCPrefixScorer(Posteriors(), EOS)
    states = [[s.batch_init_state(x)] for s in (ours, theirs)]
    for n in range(len(labels) + 1):
        y = torch.tensor([[first, *labels[:n]]])
        results = [s.batch_score_partial(y, None, old, x) for s, old in zip((ours, theirs), states, strict=True)]
        assert torch.equal(results[0][0], results[1][0])
        if n < len(labels):
            states = [[s.select_state(r[1], 0, labels[n])] for s, r in zip((ours, theirs), results, strict=True)]


def test_espnet_s_scorer_counts_the_primer():
    """What is corrected here: behind a primer of four tokens ESPnet's first scores are wrong."""
    primer, x = [EOS, 1, 2, 3], posteriors(5, 0)
    theirs = CTCPrefixScorer(Posteriors(), EOS)
    scores, _ = theirs.batch_score_partial(torch.tensor([primer]), None, [theirs.batch_init_state(x)], x)
    assert abs(float(scores[0, 1]) - prefix_logp(5, 0, (1,))) > 0.1


@pytest.mark.parametrize("partial", [False, True])
@given(data=st.data(), frames=st.lists(st.integers(4, 5), min_size=1, max_size=3), primer=primers)
def test_batches_of_utterances_are_the_sum_over_alignments(partial, data, frames, primer):
    """Unequal utterances × hypotheses; hypotheses branch, utterances end."""
    width, seeds = 2, list(range(len(frames)))
    memory = torch.nn.utils.rnn.pad_sequence(
        [posteriors(n, seed) for n, seed in zip(frames, seeds, strict=True)], batch_first=True, padding_value=7.0
    )
    tokens = torch.tensor([primer] * len(frames) * width)
    ids = torch.arange(1, VOCAB).expand(len(tokens), -1) if partial else None
    one = scorer()
    state = one.start_batch(memory, frames, len(primer))
    for _ in range(3):
        scores, state = one.score_batch(tokens, state, ids)
        for row, y in enumerate(tokens.tolist()):
            utt = row // width
            labels = tuple(y[len(primer) :])
            if prefix_logp(frames[utt], seeds[utt], labels) > -100:
                assert_brute_force(scores[row], frames[utt], seeds[utt], labels)
        choice = st.tuples(st.integers(0, width - 1), st.sampled_from(LABELS))
        chosen = data.draw(st.lists(choice, min_size=len(tokens), max_size=len(tokens)))
        rows = [row // width * width + hyp for row, (hyp, _) in enumerate(chosen)]
        tokens = torch.cat([tokens[rows], torch.tensor([[token] for _, token in chosen])], dim=1)
        state = one.select_batch(state, torch.tensor([h * VOCAB + t for h, t in chosen]).view(-1, width))
        if len(frames) > 1 and data.draw(st.booleans()):
            gone = data.draw(st.integers(0, len(frames) - 1))
            kept = [u for u in range(len(frames)) if u != gone]
            state = one.keep_utterances(state, torch.tensor(kept))
            rows = [u * width + w for u in kept for w in range(width)]
            frames, seeds, tokens = [frames[u] for u in kept], [seeds[u] for u in kept], tokens[rows]
            ids = None if ids is None else ids[: len(tokens)]


def first_scores(x, primer):
    """Scores of the first token in the ways that searches ask: ours, ESPnet's batched, its single hypotheses."""
    y, ids = torch.tensor([primer]), torch.arange(1, VOCAB)
    many, batch, single = (scorer(primer) for _ in range(3))
    return (
        many.score_batch(y, many.start_batch(x[None], [len(x)], len(primer)), None)[0][0, 1:],
        batch.batch_score_partial(y, None, [batch.batch_init_state(x)], x)[0][0, 1:],
        single.score_partial(y[0], ids, single.init_state(x), x)[0],
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_posteriors_are_summed_in_float32(dtype):
    """float16 has no room for the logarithm of zero, bfloat16 no digits for sums over frames."""
    x = posteriors(60, 0).to(dtype)
    (ours, batched, single), expected = first_scores(x, [EOS, 1, 2]), first_scores(x.float(), [EOS, 1, 2])
    assert torch.equal(ours, expected[0]) and torch.equal(batched, expected[1])
    torch.testing.assert_close(single, expected[2].to(dtype))  # handed over in the type of the search


@given(data=st.data(), frames=st.lists(st.integers(4, 5), min_size=1, max_size=3))
def test_whole_hypotheses_are_the_sum_over_alignments(data, frames):
    """Of unequal utterances and lengths; what CTC never hears (here the end) may stand anywhere, a blank nowhere."""
    memory = torch.nn.utils.rnn.pad_sequence(
        [posteriors(n, seed) for seed, n in enumerate(frames)], batch_first=True, padding_value=7.0
    )
    tokens = st.lists(st.sampled_from((*LABELS * 3, EOS, BLANK)), max_size=6)
    asked = data.draw(st.lists(st.tuples(st.integers(0, len(frames) - 1), tokens), min_size=1, max_size=5))
    rescorer = CTCRescorer(Posteriors(), 0.3, frozenset({EOS}))
    utterances, hypotheses = zip(*asked, strict=True)
    scores = rescorer.score(rescorer.posteriors(memory), frames, utterances, hypotheses)
    for score, (utt, hypothesis) in zip(scores.tolist(), asked, strict=True):
        expected = prefix_logp(frames[utt], utt, tuple(t for t in hypothesis if t != EOS), ended=True)
        assert score == (LOG_ZERO if expected < -100 or BLANK in hypothesis else pytest.approx(expected, abs=1e-8))
