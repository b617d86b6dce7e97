"""Long audio: windows where speech is, ESPnet's times, and gates for each window."""

import dataclasses
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from espnet2.bin.s2t_inference import Speech2Text as ESPnetSpeech2Text
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import FS, SECONDS, SPECIAL, make_checkpoint

from espnet_gated import Speech2Text
from espnet_gated.inference.long_form import SEGMENTATIONS, TimeTokens, decode_by_timestamps, speech_windows
from espnet_gated.inference.request import Request

OPTIONS = {"dtype": "float64", "beam_size": 2, "lang_sym": "<deu>", "task_sym": "<asr>"}


def prompts(lengths, pause=0.5, seed=0, noise=0.0):
    """Bursts of noise with pauses between them, and where they are (samples)."""
    rng = np.random.default_rng(seed)
    gap = np.zeros(round(pause * FS))
    parts, spans, total = [gap], [], len(gap)
    for length in lengths:
        burst = rng.uniform(-0.4, 0.4, round(length * FS))
        parts += [burst, gap]
        spans.append((total, total + len(burst)))
        total += len(burst) + len(gap)
    speech = np.concatenate(parts)
    return (speech + noise * rng.standard_normal(len(speech))).astype(np.float32), spans


# -- windows -----------------------------------------------------------------------------------------------------------
@given(
    lengths=st.lists(st.floats(0.12, 3.0), min_size=1, max_size=6),
    longest=st.floats(0.5, 4.0),
    noise=st.sampled_from([0.0, 1e-4, 1e-2]),
)
@settings(max_examples=40)
def test_windows_hold_all_speech_once(lengths, longest, noise):
    speech, spans = prompts(lengths, noise=noise)
    windows = speech_windows(speech, FS, longest)
    assert all(0 <= start < end <= len(speech) for start, end in windows)
    assert all(before[1] <= after[0] for before, after in pairwise(windows))
    assert all(end - start <= longest * FS + 1 for start, end in windows)
    covered = np.zeros(len(speech), bool)
    for start, end in windows:
        covered[start:end] = True
    frame = round(0.02 * FS)
    for start, end in spans:
        assert covered[start + frame : end - frame].all()
    assert covered.sum() <= sum(end - start for start, end in spans) + len(spans) * 0.3 * FS


def test_a_window_is_a_prompt_where_prompts_are_short():
    speech, spans = prompts([0.6, 0.2, 0.9], noise=1e-3)
    windows = speech_windows(speech, FS, longest=2.0)
    assert len(windows) == 3
    for (start, end), (first, last) in zip(windows, spans, strict=True):
        assert first - 0.12 * FS <= start <= first and last <= end <= last + 0.12 * FS


def test_longer_pauses_are_asked_for_and_short_ones_joined():
    speech, _ = prompts([0.5, 0.5, 0.5], pause=0.4)
    assert [len(speech_windows(speech, FS, 5.0, silence)) for silence in (0.3, 0.6)] == [3, 1]


def test_speech_without_pauses_is_cut_where_it_is_softest():
    speech = np.random.default_rng(0).uniform(-0.4, 0.4, 3 * FS)
    speech[round(1.6 * FS) : round(1.7 * FS)] *= 0.1  # too short for a pause
    (_, cut), *_ = speech_windows(speech, FS, longest=2.0)
    assert 1.6 <= cut / FS <= 1.7


@pytest.mark.parametrize("speech", [np.zeros(FS), np.zeros(0), 1e-5 * np.ones(FS), np.eye(1, FS, FS // 2)[0]])
def test_silence_and_clicks_are_no_speech(speech):
    assert speech_windows(speech, FS, 1.0) == []


def test_impossible_lengths_are_refused():
    for longest, silence in ((0.01, 0.3), (1.0, -0.1)):
        with pytest.raises(ValueError, match="longest must be at least 0.04 s and min_silence at least 0"):
            speech_windows(np.zeros(FS), FS, longest, silence)


# -- times -------------------------------------------------------------------------------------------------------------
TIMES = TimeTokens(first=10, last=60, resolution=0.02)  # 0 to 1 s
WORDS = st.integers(0, 9)


class Scripted:
    """Stands for a model: window after window it says what stands in a script."""

    def __init__(self, script):
        self.script, self.calls = list(script), []
        self.preprocessor_conf = {
            "fs": FS,
            "speech_length": 1.0,
            "speech_resolution": 0.02,
            "first_time_symbol": "<0.00>",
            "last_time_symbol": "<1.00>",
        }
        names = [str(i) for i in range(10)] + [f"<{i * 0.02:.2f}>" for i in range(51)]
        self.converter = type(
            "", (), {"token2id": {n: i for i, n in enumerate(names)}, "ids2tokens": lambda self, x: x}
        )()
        self.tokenizer = type("", (), {"tokens2text": lambda self, tokens: "".join(map(str, tokens))})()
        self.lang_sym, self.task_sym = "<deu>", "<asr>"

    def ids(self, previous):
        self.calls.append(previous)
        return self.script[len(self.calls) - 1] if len(self.calls) <= len(self.script) else [10, 1, 60]

    def __call__(self, speech, text_prev, lang_sym, task_sym, predict_time):
        return [("", [], [0, 0, *self.ids(text_prev)], "", None)]


@st.composite
def window_tokens(draw):
    """What the score filter lets a model say: times that do not fall, words between; it gets somewhere."""
    times = sorted(draw(st.lists(st.integers(11, 60), min_size=1, max_size=6)))
    return [token for time in times for token in (time, *draw(st.lists(WORDS, max_size=2)))]


@given(script=st.lists(window_tokens(), max_size=5), seconds=st.floats(0.5, 4.0), condition=st.booleans())
def test_times_are_espnet_s(script, seconds, condition):
    theirs, ours = Scripted(script), Scripted(script)
    speech = torch.zeros(round(seconds * FS))
    expected = ESPnetSpeech2Text.decode_long(theirs, speech, condition, "before", "<0.96>")
    found = decode_by_timestamps(
        samples=len(speech),
        fs=FS,
        window=FS,
        times=TIMES,
        decode=lambda start, end, previous: ours.ids(previous if condition else None),
        to_text=ours.tokenizer.tokens2text,
        complete_until=10 + 48,
        shortest=0.2,
        init_text="before",
    )
    assert ours.calls == theirs.calls
    # past the end of the recording ours stop at it
    last = len(speech) / FS
    assert found == [(round(min(a, last), 2), round(min(b, last), 2), text) for a, b, text in expected]


@pytest.mark.parametrize("ids", [[], [1, 2], [10, 1, 10], [10, 10]])
def test_a_window_that_gets_nowhere_is_passed_over(ids):
    """ESPnet's loop would fail or never end."""
    calls = []

    def decode(start, end, previous):
        calls.append((start, end))
        return ids

    found = decode_by_timestamps(2 * FS + FS // 2, FS, FS, TIMES, decode, str, 58, 0.2)
    assert calls == [(0, FS), (FS, 2 * FS), (2 * FS, 2 * FS + FS // 2)]
    assert all(0 <= start <= end <= 2.5 for start, end, _ in found)
    if 10 not in ids:  # no times: the window's own
        assert found == [(0.0, 1.0, str(ids)), (1.0, 2.0, str(ids)), (2.0, 2.5, str(ids))]


def test_an_end_before_its_start_is_no_end():
    found = decode_by_timestamps(FS, FS, FS, TIMES, lambda *_: [30, 1, 20], str, 58, 0.2)
    assert found[0] == (0.4, 0.4, "[1]")


# -- models ------------------------------------------------------------------------------------------------------------
def load(checkpoint, **options):
    return Speech2Text(str(checkpoint.config), str(checkpoint.weights), **OPTIONS | options)


def test_two_minutes_without_time_tokens(gated_checkpoint):
    """Each window's text and gates are those that the window has alone."""
    # Random masks know a window by its logits; trained predictors would tell more than bursts of noise apart.
    model = load(gated_checkpoint, sparsity=0.5, budget="random")
    model.s2t_model.encoder.gate_predictor.features.weight.data *= 100.0
    rng = np.random.default_rng(1)
    speech, _ = prompts(rng.uniform(0.2, 0.7, 130), seed=2)
    assert len(speech) / FS > 120
    segments = model.decode_long(speech, lang_sym="<ita>", batch_size=16)
    windows = speech_windows(speech, FS, SECONDS)
    assert len(segments) == len(model.stats) == len(windows) > 100
    assert [(a, b) for a, b, _ in segments] == [(round(a / FS, 2), round(b / FS, 2)) for a, b in windows]
    stats = model.stats
    assert len({tuple(row.gates["encoder"].items()) for row in stats}) > 1
    assert all(row.skipped["encoder"] > 0 and row.skipped["decoder"] > 0 for row in stats)
    for i in (0, 57, 129):
        ((_, _, _, text, _),) = model.decode_batch([Request(speech[slice(*windows[i])], "<ita>")])[0][:1]
        assert segments[i][2] == text
        assert model.stats[0].gates == stats[i].gates


def test_previous_text_is_told_where_wished(dense_checkpoint):
    model = load(dense_checkpoint)
    told = []
    real = model.decode_batch
    model.decode_batch = lambda requests: [told.append([r.text_prev for r in requests]), real(requests)][1]
    speech, _ = prompts([0.4, 0.3, 0.5])
    plain = model.decode_long(torch.from_numpy(speech)[:, None], init_text="ab")
    assert told == [[None] * 3]
    told.clear()
    conditioned = model.decode_long(speech, condition_on_prev_text=True, init_text="ab")
    assert told == [["ab"], *([text] for _, _, text in conditioned[:-1])]
    assert [s[:2] for s in plain] == [s[:2] for s in conditioned]


def test_silence_alone_is_no_text(dense_checkpoint):
    model = load(dense_checkpoint)
    assert model.decode_long(np.zeros(3 * FS, np.float32)) == []
    assert model.stats == []


def test_a_model_with_time_tokens_says_the_times(tmp_path):
    """Structure only: the weights are random."""
    special = dataclasses.replace(SPECIAL, time_resolution=0.02, max_time=SECONDS)
    model = load(make_checkpoint(tmp_path, gated=True, special=special), sparsity=0.5)
    decoder = model.s2t_model.decoder
    decoder.output_layer.bias.data[model.s2t_model.sos] = -1e4  # behind a <sos> ESPnet's score filter lets times fall
    speech, _ = prompts([0.6, 0.5])
    segments = model.decode_long(speech)
    assert model.stats and all(row.gates["encoder"] for row in model.stats)
    assert all(0.0 <= start <= end <= len(speech) / FS + 0.01 for start, end, _ in segments)
    assert all(before[0] <= after[0] for before, after in pairwise(segments))
    assert not any(re.search(r"<\d", text) for _, _, text in segments)
    cut = model.decode_long(speech, segmentation="silence")
    assert len(cut) == 2
    with pytest.raises(ValueError, match="<29.00> is not in the token list"):
        model.decode_long(speech, end_time_threshold="<29.00>")


def test_ctc_beside_time_tokens_scores_whole_hypotheses(tmp_path):
    """It has never heard the times, so it cannot score every token."""
    special = dataclasses.replace(SPECIAL, time_resolution=0.02, max_time=SECONDS)
    checkpoint = make_checkpoint(tmp_path, gated=True, special=special)
    speech, _ = prompts([0.6, 0.5])
    one_pass = load(checkpoint, ctc_weight=0.3)
    with pytest.raises(ValueError, match=r"\(--ctc_rescoring true\) or do without it \(--ctc_weight 0\)"):
        one_pass.decode_long(speech)
    assert len(one_pass.decode_long(speech, segmentation="silence")) == 2
    model = load(checkpoint, ctc_weight=0.3, ctc_rescoring=True)
    model.s2t_model.decoder.output_layer.bias.data[model.s2t_model.sos] = -1e4
    segments = model.decode_long(speech)
    assert segments and all(0.0 <= start <= end <= len(speech) / FS + 0.01 for start, end, _ in segments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segmentation": "timestamps"}, "timestamps were asked of a model that has no time tokens"),
        ({"segmentation": "words"}, f"segmentation must be one of {', '.join(SEGMENTATIONS)}, got 'words'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"min_silence": -1.0}, "min_silence must be at least 0, got -1.0"),
    ],
)
def test_impossible_options_are_refused(dense_checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        load(dense_checkpoint).decode_long(np.zeros(FS, np.float32), **options)


def test_a_rest_that_no_spectrogram_has_is_left_out(tmp_path):
    special = dataclasses.replace(SPECIAL, time_resolution=0.02, max_time=SECONDS)
    model = load(make_checkpoint(tmp_path, gated=False, special=special))
    speech = np.random.default_rng(0).uniform(-0.4, 0.4, round(2.005 * FS)).astype(np.float32)
    model.decode_long(speech, skip_last_chunk_threshold=0.0)
    assert model.decode_long(speech[:60], skip_last_chunk_threshold=0.0) == []


@pytest.mark.parametrize("silent", [True, False])
def test_integers_are_as_loud_as_the_same_samples_up_to_one(dense_checkpoint, silent):
    model, rng = load(dense_checkpoint), np.random.default_rng(0)
    speech = rng.integers(-1, 2, 3 * FS).astype(np.int16)  # hiss of the least bit
    if not silent:
        speech[FS : 2 * FS] = (8000 * np.sin(np.arange(FS) / 3)).astype(np.int16)
    texts = [model.decode_long(s, segmentation="silence") for s in (speech, speech.astype(np.float32) / 32767)]
    assert [s[:2] for s in texts[0]] == [s[:2] for s in texts[1]]
    assert bool(texts[0]) != silent
