"""Laws 3 and 4 of the search: a batch is its rows, and the cached search is ESPnet's."""

import math
from functools import cache

import pytest
import torch
from espnet.nets.batch_beam_search import BatchBeamSearch
from espnet.nets.beam_search import Hypothesis
from espnet.nets.scorer_interface import BatchScorerInterface
from espnet.nets.scorers.length_bonus import LengthBonus
from espnet2.bin.s2t_inference import ScoreFilter
from espnet2.lm.transformer_lm import TransformerLM
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny import EOS, ID, SIZE, SOP, SOS, VOCAB, ctc, decide_with, decoders, features, fixed_gates, masks, seeded

from espnet_gated.gating.context import GatingContext, TokenContext, parse_fields
from espnet_gated.inference.ctc import PrimedCTCPrefixScorer, rescoring
from espnet_gated.inference.ending import Beam, Ended, EndRule
from espnet_gated.inference.search import CachedBeamSearch

PRIMER = [SOS, ID["<deu>"], ID["<asr>"], ID["<notimestamps>"]]
PRIMERS = ([SOS], PRIMER, [SOP, ID["b"], *PRIMER])
IMPOSSIBLE = -1e8  # CTC's log of zero is −1e10


@cache
def pair(seed, eos_bias):
    """Dense decoder and gated twin (every gate open) that end sentences more or less gladly."""
    dense, gated = decoders(seed=seed)
    for decoder in (dense, gated):
        decoder.output_layer.bias.data[EOS] += eos_bias
    gated.gate_predictor.set_policy(0.0)
    return dense, gated


@cache
def time_filter():
    return seeded(lambda: ScoreFilter(ID["<notimestamps>"], ID["<0.00>"], ID["<30.00>"], SOS, EOS, VOCAB))


@cache
def language_model():
    lm = seeded(lambda: TransformerLM(VOCAB, "sinusoidal", 8, 8, 2, 16, 1, 0.0))
    lm.decoder.weight.data *= 3.0
    return lm


class Bigrams(BatchScorerInterface):
    """Stub of a language model: its state is the sum of a hypothesis' tokens. May score above zero."""

    def __init__(self, shift=-3.0):
        self.table = shift + torch.randn(7, VOCAB, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def batch_score(self, ys, states, xs):
        sums = [int(y[-1]) + (state or 0) for y, state in zip(ys, states, strict=True)]
        return self.table[[s % 7 for s in sums]], sums


def make_search(decoder, beam_size=3, ctc_weight=0.0, penalty=0.0, scorers=None, primer=None, **options):
    """ESPnet's search as its ``Speech2Text`` builds it, with the scorer that leaves the primer out of CTC."""
    primed = PrimedCTCPrefixScorer(ctc(), EOS)
    primed.set_primer(primer)
    built_in = {
        "decoder": decoder,
        "ctc": primed,
        "length_bonus": LengthBonus(VOCAB),
        "scorefilter": time_filter(),
    }
    weights = {"decoder": 1.0 - ctc_weight, "ctc": ctc_weight, "length_bonus": penalty}
    weights["scorefilter"] = float(primer is not None and len(primer) > 1)  # it looks three tokens back
    more = scorers or {}
    return BatchBeamSearch(
        scorers=built_in | {name: scorer for name, (scorer, _) in more.items()},
        weights=weights | {name: weight for name, (_, weight) in more.items()},
        beam_size=beam_size,
        vocab_size=VOCAB,
        sos=SOS,
        eos=EOS,
        pre_beam_score_key="full",
        hyp_primer=primer,
        **options,
    )


def cached(gated, exact_nbest=False, **options):
    search = make_search(gated, **options)
    assert CachedBeamSearch.suits(search)
    search.__class__ = CachedBeamSearch
    search.exact_nbest = exact_nbest
    return search


def possible(hyps):
    return [h for h in hyps if float(h.score) > IMPOSSIBLE]


def assert_same_hyp(ours, theirs):
    assert ours.yseq.tolist() == theirs.yseq.tolist()
    assert float(ours.score) == pytest.approx(float(theirs.score), abs=1e-8)
    assert set(ours.scores) == set(theirs.scores)
    for name, score in theirs.scores.items():
        assert float(ours.scores[name]) == pytest.approx(float(score), abs=1e-8), name


def assert_same_nbest(ours, theirs):
    ours, theirs = possible(ours), possible(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert_same_hyp(a, b)


def memory_of(frames, seed):
    return features(frames, seed=seed, size=SIZE)[0][0]


searches = st.fixed_dictionaries(
    {
        "beam_size": st.integers(1, 6),
        "ctc_weight": st.sampled_from([0.0, 0.3]),
        "penalty": st.sampled_from([0.0, 0.0, 0.5, 2.0, -0.5]),
        "normalize_length": st.booleans(),
    }
)
bounds = st.sampled_from([(0.0, 0.0), (0.0, 0.5), (0.5, 0.0), (-4, 0.0), (1.0, 0.5), (-5, -2), (0.0, 0.9), (2.0, 0.0)])
seeds = st.integers(0, 3)
eos_biases = st.sampled_from([0.0, 3.0, 6.0])


# -- law 4 --------------------------------------------------------------------------------------------
@given(options=searches, bounds=bounds, frames=st.integers(4, 12), seed=seeds, eos=eos_biases, p=st.integers(0, 2))
@settings(max_examples=60)
@torch.no_grad()
def test_nbest_is_espnet_s(options, bounds, frames, seed, eos, p):
    """Tokens, scores, and the scores of every scorer."""
    assume(bounds[0] <= 1.0 or options["ctc_weight"] == 0.0)  # ESPnet's CTC cannot search past the last frame
    assume(bounds[0] >= 0.0 or options["ctc_weight"] == 0.0 or -bounds[0] <= frames)
    dense, gated = pair(seed, eos)
    memory = memory_of(frames, seed)
    theirs = make_search(dense, primer=PRIMERS[p], **options)(memory, *bounds)
    ours = cached(gated, exact_nbest=True, primer=PRIMERS[p], **options)(memory, *bounds)
    assert_same_nbest(ours, theirs)
    early = cached(gated, primer=PRIMERS[p], **options)(memory, *bounds)
    assert len(early) <= len(ours)
    if possible(theirs):
        assert_same_hyp(early[0], theirs[0])


@given(beam=st.integers(1, 6), frames=st.integers(4, 9), seed=seeds, eos=eos_biases)
@torch.no_grad()
def test_nbest_is_espnet_s_with_timestamps(beam, frames, seed, eos):
    """Without <notimestamps> in the primer every hypothesis has a filter of its own."""
    dense, gated = pair(seed, eos)
    memory, primer = memory_of(frames, seed), PRIMER[:3]
    theirs = make_search(dense, beam, primer=primer)(memory)
    ours = cached(gated, True, beam_size=beam, primer=primer)(memory)
    if possible(theirs):
        assert_same_hyp(ours[0], theirs[0])
        assert_same_hyp(cached(gated, beam_size=beam, primer=primer)(memory)[0], theirs[0])


@given(options=searches, lm=st.sampled_from(["transformer", "stub", "bonus"]), seed=seeds, eos=eos_biases)
@torch.no_grad()
def test_nbest_is_espnet_s_with_further_scorers(options, lm, seed, eos):
    """ESPnet's Transformer LM, a stub with states of its own, and a scorer that can give more than log 1."""
    dense, gated = pair(seed, eos)
    scorers = {
        "transformer": {"lm": (language_model(), 0.4)},
        "stub": {"lm": (Bigrams(), 0.7)},
        "bonus": {"bonus": (Bigrams(shift=0.5), 0.7)},
    }[lm]
    memory = memory_of(7, seed)
    common = options | {"scorers": scorers, "primer": PRIMER}
    theirs = make_search(dense, **common)(memory)
    assert_same_nbest(cached(gated, True, **common)(memory), theirs)
    assert_same_hyp(cached(gated, **common)(memory)[0], theirs[0])


@given(options=searches, seed=seeds, eos=eos_biases, data=st.data())
@torch.no_grad()
def test_with_gates_the_search_is_espnet_s_on_the_gated_decoder(options, seed, eos, data):
    """ESPnet's search scores through ``batch_score``, ours through the batched cache."""
    gated = decoders(seed=seed)[1]
    gated.output_layer.bias.data[EOS] += eos
    decide_with(gated, fixed_gates(gated, data.draw(masks(gated, 1))))
    memory = memory_of(6, seed)
    theirs = make_search(gated, primer=PRIMER, **options)(memory)
    assert_same_nbest(cached(gated, True, primer=PRIMER, **options)(memory), theirs)


@given(options=searches, length=st.integers(0, 9), frames=st.integers(4, 9), seed=seeds, eos=eos_biases)
@settings(max_examples=60)
@torch.no_grad()
def test_rescoring_is_espnet_s_attention_and_then_ctc(options, length, frames, seed, eos):
    """Every hypothesis that ESPnet finds by attention alone, with CTC's score of the whole; stopped early, the best."""
    options = options | {"ctc_weight": 0.3, "primer": PRIMER}
    dense, gated = pair(seed, eos)
    memory = memory_of(frames, seed)
    search = make_search(dense, **options)
    del search.scorers["ctc"], search.part_scorers["ctc"]
    search.do_pre_beam = False
    logp = ctc().log_softmax(memory[None]).transpose(0, 1)
    expected = []
    for hyp in search(memory, maxlenratio=-length):  # 0: no length, but ESPnet's end detection
        words = hyp.yseq[(hyp.yseq != EOS).nonzero().squeeze(1)][len(PRIMER) :]
        sizes = torch.tensor([frames]), torch.tensor([len(words)])
        loss = torch.nn.functional.ctc_loss(logp, words[None], *sizes, reduction="none")[0]
        if (words == 0).any():  # a blank, which no alignment says
            loss = torch.tensor(1e10)
        score = hyp.score - 0.3 * loss
        expected.append(hyp._replace(score=score, scores=hyp.scores | {"ctc": -loss}))
    by = (lambda h: float(h.score) / (len(h.yseq) - 1)) if options["normalize_length"] else lambda h: float(h.score)
    expected.sort(key=by, reverse=True)
    assert_same_nbest(rescoring(cached(gated, exact_nbest=True, **options))(memory, -length), expected)
    early = rescoring(cached(gated, **options))(memory, -length)
    assert len(early) <= len(expected)
    if possible(expected):
        assert_same_hyp(early[0], possible(expected)[0])


def test_the_end_is_detected_by_the_search_s_own_scores():
    """What ended too early loses by CTC: that does not mean that what still runs is worse."""
    rule = EndRule({"decoder": 0.7}, normalize_length=False, detect_end=True, exact_nbest=False)
    hyps = [Hypothesis(yseq=torch.zeros(n, dtype=torch.long), score=torch.tensor(-7.0)) for n in range(6, 11)]
    beam = Beam(0, max_length=30, min_length=0)
    lower = [-7.0 - 12.0 * (20 - n) for n in range(6, 11)]  # of 20 words, each that is missing costs 12
    beam.ended = [Ended(h, score, -7.0) for h, score in zip(hyps, lower, strict=True)]
    assert not rule.done(beam, step=8, best_running=-0.5, length=13)
    beam.ended = [Ended(h, score, score) for h, score in zip(hyps, lower, strict=True)]
    assert rule.done(beam, step=8, best_running=-0.5, length=13)


class CountedSteps(CachedBeamSearch):
    steps = 0

    def _step(self, state, step, rule):
        self.steps += 1
        return super()._step(state, step, rule)


@pytest.mark.parametrize("penalty", [0.0, 0.5])
@pytest.mark.parametrize("normalize_length", [False, True])
@torch.no_grad()
def test_early_stop_saves_steps(penalty, normalize_length):
    _, gated = pair(0, 6.0)
    counts = []
    for exact in (True, False):
        options = {"penalty": penalty, "normalize_length": normalize_length, "primer": PRIMER}
        search = cached(gated, exact, beam_size=4, **options)
        search.__class__ = CountedSteps
        search(memory_of(30, 1))
        counts.append(search.steps)
    assert counts[1] < counts[0] <= 30
    if not (penalty or normalize_length):
        assert counts[1] <= 3


def test_the_search_refuses_what_it_cannot_serve():
    _, gated = pair(0, 0.0)
    dense, _ = pair(0, 0.0)
    assert not CachedBeamSearch.suits(make_search(dense))
    search = cached(gated)
    memory = torch.stack([memory_of(5, 0), memory_of(5, 1)])
    with pytest.raises(ValueError, match="one length"):
        search.search_batch(memory, None, [[SOS], PRIMER])
    with pytest.raises(ValueError, match="pre_x"):
        search(memory[0], pre_x=memory[0])


# -- law 3 --------------------------------------------------------------------------------------------
@cache
def choosy(seed, eos_bias):
    """A gated decoder whose predictor asks every utterance's features and context."""
    _, gated = decoders({"target_sparsity": 0.5}, seed=seed)
    gated.output_layer.bias.data[EOS] += eos_bias
    return gated


def search_rows(search, memories, primers, bounds, contexts=None):
    """Each utterance alone."""
    predictor = search.full_scorers["decoder"].gate_predictor
    found = []
    for row, (memory, primer) in enumerate(zip(memories, primers, strict=True)):
        predictor.current = None if contexts is None else contexts.select(torch.tensor([row]))
        found += search.search_batch(memory[None], None, [primer], *bounds)
    return found


def search_together(search, memories, primers, bounds, contexts=None):
    search.full_scorers["decoder"].gate_predictor.current = contexts
    padded = torch.nn.utils.rnn.pad_sequence(memories, batch_first=True, padding_value=9.0)
    return search.search_batch(padded, [len(m) for m in memories], primers, *bounds)


@given(
    options=searches,
    bounds=bounds,
    frames=st.lists(st.integers(3, 10), min_size=2, max_size=5),
    exact=st.booleans(),
    rescored=st.booleans(),
    seed=seeds,
    eos=eos_biases,
    data=st.data(),
)
@settings(max_examples=60)
@torch.no_grad()
def test_a_batch_is_its_rows(options, bounds, frames, exact, rescored, seed, eos, data):
    """Unequal utterances, each with its own gates, ends and language: the whole n-best list is the same."""
    assume(bounds[0] <= 1.0 or options["ctc_weight"] == 0.0)
    assume(bounds[0] >= 0.0 or options["ctc_weight"] == 0.0 or -bounds[0] <= min(frames))
    search = cached(choosy(seed, eos), exact, **options)
    if rescored and options["ctc_weight"]:
        search = rescoring(search)
    memories = [memory_of(n, seed + i) for i, n in enumerate(frames)]
    symbols = data.draw(st.lists(st.sampled_from(["<deu>", "<ita>"]), min_size=len(frames), max_size=len(frames)))
    primers = [[SOS, ID[symbol], ID["<asr>"], ID["<notimestamps>"]] for symbol in symbols]
    alone = search_rows(search, memories, primers, bounds)
    together = search_together(search, memories, primers, bounds)
    assert len(alone) == len(together)
    for a, b in zip(alone, together, strict=True):
        assert_same_nbest(b, a)


@torch.no_grad()
def test_gates_differ_inside_a_batch():
    """What the law above is worth: the rows really run different modules."""
    search = cached(choosy(0, 3.0))
    search_together(search, [memory_of(n, n) for n in (4, 7, 9)], [PRIMER] * 3, (0.0, 0.0))
    values = choosy(0, 3.0).gate_predictor.last.values
    assert len({tuple(row) for row in values.tolist()}) > 1


@torch.no_grad()
def test_an_utterance_that_searches_again_keeps_its_context_and_gates():
    """With beam 1 and a minimal length the search of one utterance may find nothing and starts again."""
    gated = decoders({"target_sparsity": 0.5}, seed=1)[1]
    fields = parse_fields({"lang": "token", "task": "token"}, list(ID))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gated.gate_predictor.declare_context(fields, 0.0)
    gated.gate_predictor.double().eval()
    gated.output_layer.bias.data[EOS] += 9.0
    primers = torch.tensor([PRIMER, [SOS, ID["<ita>"], *PRIMER[2:]], PRIMER])
    contexts = GatingContext(TokenContext(fields, list(ID), SOS).from_primer(primers))
    search, memories = cached(gated, beam_size=1), [memory_of(n, n) for n in (6, 9, 8)]
    arguments = (memories, primers.tolist(), (0.0, 0.3), contexts)
    alone = search_rows(search, *arguments)
    together = search_together(search, *arguments)
    assert gated.gate_predictor.last.values.size(0) == 3
    for a, b in zip(alone, together, strict=True):
        assert a and math.isfinite(float(a[0].score))
        assert_same_nbest(b, a)
