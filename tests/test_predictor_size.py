"""The gate predictors are light: at most 1 % of their stack's parameters and FLOPs."""

import pytest
import torch

from espnet_gated.decoder import GatedTransformerDecoder
from espnet_gated.encoder import GatedEBranchformerEncoder
from espnet_gated.gating.context import parse_fields
from espnet_gated.gating.costs import linear_flops

# width, heads, blocks, units, kernel, input layer, frames of a short utterance, special tokens, vocabulary
SHAPES = {
    "owsm_v3.1_base": (384, 6, 6, 1536, 31, "conv2d", 50, 310, 50002),
    "mini": (128, 4, 4, 384, 7, "conv1d3", 20, 14, 500),
}


def build(name, local=False):
    of_encoder, of_decoder = ({"level": "layer"}, {"level": "token"}) if local else ({}, {})
    size, heads, blocks, units, kernel, input_layer, frames, special, vocab = SHAPES[name]
    with torch.device("meta"):  # shapes only
        encoder = GatedEBranchformerEncoder(
            80,
            size,
            heads,
            attention_layer_type="selfattn",
            pos_enc_layer_type="abs_pos",
            cgmlp_linear_units=units,
            cgmlp_conv_kernel=kernel,
            num_blocks=blocks,
            input_layer=input_layer,
            use_ffn=True,
            macaron_ffn=True,
            linear_units=units,
            merge_conv_kernel=kernel,
            gating=of_encoder,
        )
        decoder = GatedTransformerDecoder(vocab, size, heads, units, blocks, gating=of_decoder)
        fields = parse_fields({"lang": "token", "task": "token"}, [f"<t{i}>" for i in range(special)])
        for stack in (encoder, decoder):
            stack.gate_predictor.declare_context(fields, 0.1)
    return encoder, decoder, frames


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "local"), [*((name, False) for name in SHAPES), ("owsm_v3.1_base", True)])
def test_predictors_are_light(name, local):
    """Local gates have a head in each layer and are for wide models: the mini shape's would be 2 % of it."""
    encoder, decoder, frames = build(name, local)
    encoder_flops = sum(sum(layer.module_costs(frames).values()) for layer in encoder.encoders)
    tokens = 10
    decoder_flops = sum(sum(layer.module_costs(tokens, frames).values()) for layer in decoder.decoders)
    for stack, flops, looks in ((encoder, encoder_flops, 1), (decoder, decoder_flops, tokens if local else 1)):
        predictor = stack.gate_predictor
        assert 0 < parameters(predictor) <= 0.01 * (parameters(stack) - parameters(predictor))
        assert 0 < linear_flops(predictor, looks) <= 0.01 * flops
