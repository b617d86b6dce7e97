"""Tiny models with random weights, in float64 so that a difference is an error and not a rounding.

ESPnet's class and its gated twin come in pairs with the same weights.
"""

from functools import cache
from typing import Any

import torch
from espnet2.asr.ctc import CTC
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.s2t.espnet_model import ESPnetS2TModel
from hypothesis import strategies as st

from espnet_gated.decoder import GatedTransformerDecoder
from espnet_gated.encoder import GatedEBranchformerEncoder
from espnet_gated.gating.gates import Gates, from_values
from espnet_gated.model import GatedESPnetS2TModel

TOKENS = (
    *("<blank>", "<unk>", "<na>", "<nospeech>", "<deu>", "<eng>", "<ita>", "<asr>", "<st_eng>", "<notimestamps>"),
    *("<0.00>", "<30.00>", "▁a", "b", "c", "d", "e", "▁f", "<sos>", "<eos>", "<sop>"),
)
ID = {token: i for i, token in enumerate(TOKENS)}
SOS, EOS, SOP, NA = (ID[t] for t in ("<sos>", "<eos>", "<sop>", "<na>"))
VOCAB = len(TOKENS)

INPUT, SIZE, HEADS = 20, 8, 2
ENCODER = {
    "input_size": INPUT,
    "output_size": SIZE,
    "attention_heads": HEADS,
    "attention_layer_type": "selfattn",
    "pos_enc_layer_type": "abs_pos",
    "cgmlp_linear_units": 12,
    "cgmlp_conv_kernel": 5,
    "num_blocks": 2,
    "dropout_rate": 0.0,
    "positional_dropout_rate": 0.0,
    "input_layer": "linear",
    "use_ffn": True,
    "macaron_ffn": True,
    "linear_units": 16,
    "merge_conv_kernel": 3,
}
DECODER = {
    "vocab_size": VOCAB,
    "encoder_output_size": SIZE,
    "attention_heads": HEADS,
    "linear_units": 16,
    "num_blocks": 2,
    "dropout_rate": 0.0,
    "positional_dropout_rate": 0.0,
}
GATING = {"hidden_units": 6, "nominal_length": 10, "nominal_memory": 10}


def seeded(make: Any, seed: int = 0) -> Any:
    """What ``make()`` builds from a seed, in float64 and evaluation mode; the global generator is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double().eval()


def twins(dense: type, gated: type, options: dict, gating: dict | None, seed: int) -> tuple[Any, Any]:
    """ESPnet's module and the gated one with its weights."""
    original = seeded(lambda: dense(**options), seed)
    _spread(original, seed)
    twin = seeded(lambda: gated(**options, gating=GATING | (gating or {})), seed)
    load(twin, original)
    nudge(twin.gate_predictor, seed)
    return original, twin


def load(twin: torch.nn.Module, original: torch.nn.Module) -> None:
    """Law 1: the state dict loads unchanged, and only the predictor's keys are new."""
    missing, unexpected = twin.load_state_dict(original.state_dict(), strict=False)
    assert not unexpected
    assert missing and all("gate_predictor." in key for key in missing), missing


def _spread(module: torch.nn.Module, seed: int) -> None:
    """Larger biases than an initialisation gives: a term that is forgotten shows, and tokens differ in score."""
    generator = torch.Generator().manual_seed(seed + 1)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if name == "output_layer.weight":
            parameter.data *= 3.0


def nudge(predictor: torch.nn.Module, seed: int = 0, scale: float = 3.0) -> None:
    """Make the logits of an untrained predictor depend strongly on features and, even more, on context."""
    generator = torch.Generator().manual_seed(seed + 2)
    for name, parameter in predictor.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data += scale * (3.0 if name.startswith("context") else parameter.shape[-1] ** -0.5) * noise


def encoders(gating: dict | None = None, seed: int = 0, **options: Any) -> tuple[Any, GatedEBranchformerEncoder]:
    """Dense encoder and its gated twin."""
    return twins(EBranchformerEncoder, GatedEBranchformerEncoder, ENCODER | options, gating, seed)


def decoders(gating: dict | None = None, seed: int = 0, **options: Any) -> tuple[Any, GatedTransformerDecoder]:
    """Dense decoder and its gated twin."""
    return twins(TransformerDecoder, GatedTransformerDecoder, DECODER | options, gating, seed)


@cache
def ctc(seed: int = 0) -> CTC:
    """A CTC layer with peaky posteriors."""
    module = seeded(lambda: CTC(VOCAB, SIZE), seed)
    module.ctc_lo.weight.data *= 3.0
    return module


def models(
    gating: dict | None = None, seed: int = 0, encoder: dict | None = None, ctc_weight: float = 0.3, **options: Any
) -> tuple[ESPnetS2TModel, GatedESPnetS2TModel]:
    """Dense S2T model and its gated twin, fed with features (no frontend)."""

    def build(cls: type, encoder_cls: type, decoder_cls: type, more: dict) -> Any:
        parts = dict.fromkeys(("frontend", "specaug", "normalize", "preencoder", "postencoder"))
        return cls(
            vocab_size=VOCAB,
            token_list=list(TOKENS),
            encoder=encoder_cls(**ENCODER | (encoder or {}), **more),
            decoder=decoder_cls(**DECODER, **more),
            ctc=CTC(VOCAB, SIZE),
            ctc_weight=ctc_weight,
            report_cer=False,
            report_wer=False,
            **parts,
            **(options if more else {}),
        )

    dense = seeded(lambda: build(ESPnetS2TModel, EBranchformerEncoder, TransformerDecoder, {}), seed)
    more = {"gating": GATING | (gating or {})}
    gated = seeded(lambda: build(GatedESPnetS2TModel, GatedEBranchformerEncoder, GatedTransformerDecoder, more), seed)
    load(gated, dense)
    return dense, gated


def features(*lengths: int, seed: int = 0, size: int = INPUT) -> tuple[torch.Tensor, torch.Tensor]:
    """Random features (B, T, size) with zeros behind each length, and the lengths."""
    generator = torch.Generator().manual_seed(seed + 3)
    x = torch.randn(len(lengths), max(lengths), size, generator=generator, dtype=torch.float64)
    for row, length in enumerate(lengths):
        x[row, length:] = 0.0
    return x, torch.tensor(lengths)


def training_batch(rows: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Arguments of a model's ``forward``: rows in different languages and tasks, the first with previous text."""
    speech, lengths = features(*range(20, 20 - rows, -1), seed=seed)
    langs, tasks = ("<deu>", "<eng>", "<ita>"), ("<asr>", "<st_eng>")
    text = torch.full((rows, 6), -1)
    for row in range(rows):
        words = torch.arange(ID["▁a"], ID["▁a"] + 3 - row % 2)
        head = [ID[langs[row % 3]], ID[tasks[row % 2]], ID["<notimestamps>"]]
        text[row, : 3 + len(words)] = torch.cat([torch.tensor(head), words])
    previous = torch.full((rows, 2), -1)
    previous[:, 0] = NA
    previous[0] = torch.tensor([ID["b"], ID["c"]])
    words_only = text[:, 3:].clone()
    words_only[words_only < 0] = ID["d"]
    return {
        "speech": speech,
        "speech_lengths": lengths,
        "text": text,
        "text_lengths": (text >= 0).sum(1),
        "text_prev": previous,
        "text_prev_lengths": (previous >= 0).sum(1),
        "text_ctc": words_only,
        "text_ctc_lengths": torch.full((rows,), words_only.size(1)),
    }


def fixed_gates(stack: Any, mask: Any, soft: bool = False) -> Gates:
    """Gates of a gated encoder or decoder from a mask (B, M) of zeros and ones."""
    predictor = stack.gate_predictor
    return from_values(torch.as_tensor(mask, dtype=torch.float64), predictor.names, predictor.costs, soft)


@st.composite
def masks(draw: Any, stack: Any, rows: int) -> torch.Tensor:
    """Masks (rows, M); whole columns are often alike, so that modules open or close for every row."""
    bit = st.sampled_from([0.0, 1.0])
    column = st.one_of(bit.map(lambda b: [b] * rows), st.lists(bit, min_size=rows, max_size=rows))
    modules = len(stack.gate_predictor.names)
    return torch.tensor(draw(st.lists(column, min_size=modules, max_size=modules))).T


def decide_with(stack: Any, gates: Gates) -> None:
    """Let a stack's predictor answer with these gates whatever it sees."""
    predictor = stack.gate_predictor

    def answer(pooled: torch.Tensor) -> Gates:
        predictor.last = gates
        return gates

    predictor.forward = answer
