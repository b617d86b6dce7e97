"""Stock ESPnet inference of gated ASR, ST and MT models, and decoding with CTC alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from espnet2.bin.asr_inference import Speech2Text as ASRSpeech2Text
from espnet2.bin.mt_inference import Text2Text
from espnet2.bin.s2t_inference import Speech2Text as S2TSpeech2Text
from espnet2.bin.st_inference import Speech2Text as STSpeech2Text
from tiny_tasks import DENSE, INPUT, TOKENS, save

from espnet_gated.inference.request import Request
from espnet_gated.inference.speech2text import Speech2Text

INFERENCE = {"asr": ASRSpeech2Text, "st": STSpeech2Text, "mt": Text2Text}
COMMON = {"beam_size": 3, "maxlenratio": -8, "token_type": "word"}
FS = 8000
S2T = {
    "input_size": None,
    "frontend": "default",
    "frontend_conf": {"fs": FS, "n_fft": 128, "win_length": 128, "hop_length": 80, "n_mels": INPUT},
    "preprocessor_conf": {
        **{"fs": FS, "speech_length": 0.5, "speech_resolution": 0.02, "notime_symbol": "<notimestamps>"},
        **{"first_time_symbol": "<0.00>", "last_time_symbol": "<30.00>"},
    },
}


def make(task: str, files: tuple[str, str, Any], ctc_weight: float = 0.0) -> Any:
    return INFERENCE[task](files[0], files[1], ctc_weight=ctc_weight, **COMMON)


def model_of(inference: Any, task: str) -> Any:
    return getattr(inference, f"{task}_model")


def decode(inference: Any, task: str) -> list[tuple[list[int], float]]:
    torch.manual_seed(0)
    found = inference(torch.tensor([2, 3, 2, 2]) if task == "mt" else torch.randn(40, INPUT))
    return [(hyp[2], float(hyp[3].score)) for hyp in found]


@pytest.mark.parametrize("task", INFERENCE)
def test_stock_inference(task: str, tmp_path: Path) -> None:
    """Open gates: ESPnet's dense model, n-best and scores. Closed ones: it decodes, and skips what was asked."""
    dense = save(task, tmp_path / "dense", **DENSE)
    gated = save(task, tmp_path / "gated", weights=dense[2].state_dict())
    inference = make(task, gated)
    model = model_of(inference, task)
    model.set_sparsity(0.0, 0.0)
    expected, found = decode(make(task, dense), task), decode(inference, task)
    assert [ids for ids, _ in found] == [ids for ids, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-4)
    model.set_sparsity(0.4, 0.6)
    assert decode(inference, task)
    for stack, asked in (("encoder", 0.4), ("decoder", 0.6)):
        assert float(model.gate_predictors()[stack].last.skipped()) >= asked - 1e-6


@pytest.mark.parametrize("task", ["asr", "s2t"])
def test_ctc_alone(task: str, tmp_path: Path) -> None:
    """A model without decoder; ESPnet's own S2T search would run past the last frame (its primer counts as output)."""
    more = S2T if task == "s2t" else {"decoder": None}
    files = save(task, tmp_path, model_conf={"ctc_weight": 1.0}, **more)
    if task == "asr":
        inference = make(task, files, ctc_weight=1.0)
        assert decode(inference, task)
    else:
        torch.manual_seed(0)
        options = {"ctc_weight": 1.0, "lang_sym": "<deu>", "task_sym": "<asr>", "beam_size": 3, "token_type": "word"}
        inference = Speech2Text(files[0], files[1], **options)
        assert inference(torch.randn(FS // 2))
    model = model_of(inference, task)
    assert model.decoder is None
    assert float(model.encoder.gate_predictor.last.skipped()) >= 0.5 - 1e-6


def test_ctc_alone_hears_the_language(tmp_path: Path) -> None:
    """Both Speech2Text classes tell the encoder's predictor the language of the primer; they find the same text."""
    files = save("s2t", tmp_path, model_conf={"ctc_weight": 1.0}, **S2T)
    speech = 0.1 * torch.randn(FS // 2)
    options = {"ctc_weight": 1.0, "beam_size": 3, "token_type": "word", "maxlenratio": -6}
    logits = {}
    for lang in ("<deu>", "<eng>"):
        for cls in (S2TSpeech2Text, Speech2Text):
            inference = cls(files[0], files[1], lang_sym=lang, task_sym="<asr>", **options)
            assert inference(speech)
            logits[lang, cls] = inference.s2t_model.encoder.gate_predictor.last.logits
        torch.testing.assert_close(logits[lang, S2TSpeech2Text], logits[lang, Speech2Text])
    assert not torch.equal(logits["<deu>", Speech2Text], logits["<eng>", Speech2Text])
    batch = inference.decode_batch([Request(speech, lang, "<asr>") for lang in ("<deu>", "<eng>")])
    assert len(batch) == 2
    assert all(set(result[0][1]) <= set(TOKENS) for result in batch)
