"""Laws 1, 2 and 5 for every encoder family and its variants, tiny and in float64."""

import copy
import inspect
import itertools
import pickle
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from espnet2.asr.ctc import CTC
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from espnet_gated import encoder as families
from espnet_gated.gating.costs import shares
from espnet_gated.gating.gates import CLOSED, OPEN, LayerGates, ModuleGate, from_values, hard_gate
from espnet_gated.twin import dense_class

SIZE, FRAMES, INPUT = 8, 13, 10
ATTENTION = {"output_size": SIZE, "attention_heads": 2, "num_blocks": 2, "input_layer": "linear"}
BRANCHES = {**ATTENTION, "cgmlp_linear_units": 12, "cgmlp_conv_kernel": 3}
FEED = {**ATTENTION, "linear_units": 12}
CONFORMER = {**FEED, "cnn_module_kernel": 3, "macaron_style": True, "rel_pos_type": "latest"}
ABSOLUTE = {"pos_enc_layer_type": "abs_pos", "attention_layer_type": "selfattn"}

EXAMPLE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "docs" / "examples" / "gated_conv.py"))

VARIANTS: dict[str, tuple[type, dict[str, Any]]] = {
    "branchformer": (families.GatedBranchformerEncoder, BRANCHES),
    "branchformer_learned": (families.GatedBranchformerEncoder, {**BRANCHES, "merge_method": "learned_ave"}),
    "branchformer_dropped": (
        families.GatedBranchformerEncoder,
        {**BRANCHES, **ABSOLUTE, "merge_method": "learned_ave", "attn_branch_drop_rate": 0.5},
    ),
    "branchformer_fixed": (
        families.GatedBranchformerEncoder,
        {**BRANCHES, "merge_method": "fixed_ave", "cgmlp_weight": 0.3, "stochastic_depth_rate": 0.4},
    ),
    "branchformer_one_branch": (
        families.GatedBranchformerEncoder,
        {**BRANCHES, "merge_method": "fixed_ave", "cgmlp_weight": [0.0, 1.0]},
    ),
    "branchformer_no_attn": (families.GatedBranchformerEncoder, {**BRANCHES, "use_attn": False}),
    "branchformer_fast": (
        families.GatedBranchformerEncoder,
        {**BRANCHES, **ABSOLUTE, "attention_layer_type": "fast_selfattn"},
    ),
    "e_branchformer": (
        families.GatedEBranchformerEncoder,
        {**BRANCHES, "linear_units": 12, "use_ffn": True, "macaron_ffn": True, "merge_conv_kernel": 3},
    ),
    "transformer": (families.GatedTransformerEncoder, {**FEED, "interctc_layer_idx": [1]}),
    "transformer_post": (
        families.GatedTransformerEncoder,
        {**FEED, "normalize_before": False, "concat_after": True, "positionwise_layer_type": "conv1d"},
    ),
    "transformer_conv2d": (families.GatedTransformerEncoder, {**FEED, "input_layer": "conv2d2"}),
    "conformer": (families.GatedConformerEncoder, {**CONFORMER, "stochastic_depth_rate": 0.4}),
    "conformer_legacy": (
        families.GatedConformerEncoder,
        {**CONFORMER, "rel_pos_type": "legacy", "interctc_layer_idx": [1], "interctc_use_conditioning": True},
    ),
    "conformer_trim": (
        families.GatedConformerEncoder,
        {**CONFORMER, "interctc_layer_idx": [1], "ctc_trim": True},
    ),
    "conformer_post": (
        families.GatedConformerEncoder,
        {**CONFORMER, "normalize_before": False, "concat_after": True, "use_cnn_module": False},
    ),
    "multiconv_conformer": (
        families.GatedMultiConvConformerEncoder,
        {
            **{k: v for k, v in CONFORMER.items() if k != "cnn_module_kernel"},
            **{"cgmlp_linear_units": 8, "multicgmlp_kernel_sizes": "3,5", "multicgmlp_merge_conv_kernel": 3},
        },
    ),
    "docs_example_conv2d": (
        EXAMPLE["GatedConvEncoder"],
        {"output_size": SIZE, "linear_units": 12, "num_blocks": 2, "kernel": 3},
    ),
}
EVERY = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def build(variant: str) -> tuple[nn.Module, nn.Module]:
    """ESPnet's encoder and its gated twin with the same weights, in evaluation mode."""
    gated_class, options = VARIANTS[variant]
    rates = ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate")
    known = inspect.signature(dense_class(gated_class)).parameters
    built = []
    for cls in (dense_class(gated_class), gated_class):
        encoder = cls(INPUT, **options, **{rate: 0.2 for rate in rates if rate in known})
        if getattr(encoder, "interctc_use_conditioning", False):
            encoder.conditioning_layer = nn.Linear(5, SIZE)
        built.append(encoder.double().eval())
    dense, gated = built
    for parameter in dense.parameters():  # norms and biases must matter
        nn.init.normal_(parameter, std=0.5)
    missing, unexpected = gated.load_state_dict(dense.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("gate_predictor.") for name in missing)
    return dense, gated


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(3, FRAMES, INPUT, dtype=torch.double), torch.tensor([FRAMES, FRAMES - 4, FRAMES - 5])


def flatten(result: Any) -> list[Tensor]:
    """All tensors of an encoder's result."""
    if torch.is_tensor(result):
        return [result]
    return [t for part in result if part is not None and not isinstance(part, int) for t in flatten(part)]


def assert_same(one: Any, other: Any) -> None:
    ones, others = flatten(one), flatten(other)
    assert [t.shape for t in ones] == [t.shape for t in others]
    for a, b in zip(ones, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# -- law 1: open gates are ESPnet ---------------------------------------------------------------------
@EVERY
def test_open_gates_are_espnet(variant: str) -> None:
    dense, gated = build(variant)
    gated.gate_predictor.set_policy(budget="open")
    xs, lengths = batch()
    if not getattr(dense, "interctc_use_conditioning", False):
        assert_same(gated(xs, lengths), dense(xs, lengths))
    if hasattr(dense, "interctc_layer_idx"):
        ctc = CTC(5, SIZE).double().eval()
        ctc.ctc_lo.bias.data[0] = 20.0 if "trim" in variant else 0.0  # confident blanks: trimming trims
        assert_same(gated(xs, lengths, ctc=ctc), dense(xs, lengths, ctc=ctc))
        if "multiconv" not in variant:  # whose forward takes neither of these
            padding = torch.arange(FRAMES)[None] >= torch.tensor([[9], [13], [6]])
            for options in ({"masks": padding}, {"return_all_hs": True}):
                assert_same(gated(xs, lengths, ctc=ctc, **options), dense(xs, lengths, ctc=ctc, **options))


@EVERY
def test_open_layer_is_espnet_in_training(variant: str) -> None:
    """The same random numbers are drawn in the same order: dropout, stochastic depth, dropped branches."""
    dense, gated = build(variant)
    dense.train(), gated.train()
    x, mask = layer_input(gated, variant)
    for seed in range(6):
        results = []
        for encoder in (dense, gated):
            torch.manual_seed(seed)
            results.append([layer(x, mask)[0] for layer in encoder.encoders])
        assert_same(*results)


# -- law 2: skipping is masking -----------------------------------------------------------------------
def layer_input(encoder: nn.Module, variant: str) -> tuple[Any, Tensor]:
    xs, lengths = batch()
    mask = (torch.arange(FRAMES)[None] < lengths[:, None])[:, None]
    with torch.no_grad():
        embedded = encoder.embed(xs, mask) if "conv2d" in variant else (encoder.embed(xs), mask)
    return embedded[0], embedded[1]


def soft(value: Tensor) -> ModuleGate:
    return ModuleGate(value=value, soft=True)


def modules_of(layer: nn.Module) -> list[str]:
    return list(layer.module_costs(FRAMES))


@EVERY
def test_every_subset_skips_as_it_masks(variant: str) -> None:
    _, gated = build(variant)
    x, mask = layer_input(gated, variant)
    for layer in gated.encoders:
        names = modules_of(layer)
        for flags in itertools.product([0.0, 1.0], repeat=len(names)):
            skipped: LayerGates = {n: OPEN if flag else CLOSED for n, flag in zip(names, flags, strict=True)}
            masked = {n: soft(torch.full((3,), flag)) for n, flag in zip(names, flags, strict=True)}
            assert_same(layer(x, mask, gates=skipped)[0], layer(x, mask, gates=masked)[0])


@EVERY
def test_rows_skip_as_they_mask(variant: str) -> None:
    _, gated = build(variant)
    x, mask = layer_input(gated, variant)
    for layer, seed in itertools.product(gated.encoders, range(8)):
        torch.manual_seed(seed)
        values = {name: torch.randint(0, 2, (3,)).double() for name in modules_of(layer)}
        skipped = {name: hard_gate(value) for name, value in values.items()}
        masked = {name: soft(value) for name, value in values.items()}
        assert_same(layer(x, mask, gates=skipped)[0], layer(x, mask, gates=masked)[0])


@EVERY
def test_encoder_skips_as_it_masks(variant: str) -> None:
    _, gated = build(variant)
    predictor = gated.gate_predictor
    values = torch.randint(0, 2, (3, len(predictor.names))).double()
    ctc = CTC(5, SIZE).double().eval()
    xs, lengths = batch()
    extra = {"ctc": ctc} if hasattr(gated, "interctc_layer_idx") else {}
    results = []
    for is_soft in (False, True):
        decide: Callable[[Tensor], Any] = lambda _, s=is_soft: from_values(  # noqa: E731
            values, predictor.names, predictor.costs, soft=s
        )
        predictor.forward = decide
        results.append(gated(xs, lengths, **extra))
    assert_same(*results)


@pytest.mark.parametrize("variant", ["branchformer", "branchformer_learned", "e_branchformer"])
def test_quantised_merges_skip_as_they_mask(variant: str) -> None:
    _, gated = build(variant)
    x, mask = layer_input(gated, variant)
    x = tuple(t.float() for t in x)
    layer = torch.ao.quantization.quantize_dynamic(gated.encoders[0].float(), {nn.Linear}, dtype=torch.qint8)
    for attn, cgmlp in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        values = {"attn": torch.full((3,), attn), "cgmlp": torch.full((3,), cgmlp)}
        skipped = layer(x, mask, gates={name: hard_gate(value) for name, value in values.items()})[0]
        masked = layer(x, mask, gates={name: soft(value) for name, value in values.items()})[0]
        torch.testing.assert_close(skipped[0], masked[0], rtol=1e-4, atol=1e-4)


def test_the_constant_of_a_closed_branch_is_made_once_at_inference() -> None:
    """Whatever happens to the layer in between: other weights, another type, copies."""
    _, gated = build("e_branchformer")
    layer = gated.encoders[0]
    x, mask = layer_input(gated, "e_branchformer")
    state = list(layer.state_dict())
    rows = hard_gate(torch.tensor([1.0, 0.0, 1.0]))

    def results(layer: nn.Module, x: Any = x) -> list[Tensor]:
        return [layer(x, mask, gates=gates)[0][0] for gates in ({"attn": CLOSED}, {"cgmlp": CLOSED}, {"attn": rows})]

    def assert_right(layer: nn.Module, x: Any = x) -> None:
        made_anew = results(layer, x)  # with gradients nothing is kept
        with torch.no_grad():
            for _ in range(2):
                assert_same(results(layer, x), made_anew)

    assert_right(layer)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert list(other.state_dict()) == list(layer.state_dict()) == state
        first, second = (count(lambda o=other: o(x, mask, gates={"attn": CLOSED})) for _ in range(2))
        assert first - second == 2 * SIZE * SIZE
        assert_right(other)
    with torch.no_grad():
        layer.merge_proj.weight.mul_(2.0)
        layer.depthwise_conv_fusion.bias.add_(1.0)
    assert_right(layer)
    layer.load_state_dict({name: value + 0.5 for name, value in layer.state_dict().items()})
    assert_right(layer)
    layer.train().float()
    with torch.no_grad():
        results(layer, tuple(t.float() for t in x))
    assert_right(layer.double().eval())


# -- training -----------------------------------------------------------------------------------------
@EVERY
def test_gradient_reaches_the_predictor(variant: str) -> None:
    _, gated = build(variant)
    gated.train()
    extra = {"ctc": CTC(5, SIZE).double()} if hasattr(gated, "interctc_layer_idx") else {}
    flatten(gated(*batch(), **extra))[0].square().sum().backward()
    assert gated.gate_predictor.output.weight.grad.abs().sum() > 0


# -- law 5: costs are what is saved -------------------------------------------------------------------
@EVERY
def test_cost_is_what_closing_saves(variant: str) -> None:
    _, gated = build(variant)
    for layer in gated.encoders:
        x = torch.randn(1, FRAMES, SIZE, dtype=torch.double)
        pos_emb = x.new_ones(1, positions(layer), SIZE) if positions(layer) else None
        mask = torch.ones(1, 1, FRAMES, dtype=torch.bool)
        inputs = x if pos_emb is None else (x, pos_emb)
        whole = count(lambda layer=layer, i=inputs, m=mask: layer(i, m))
        costs = layer.module_costs(FRAMES)
        constant = 2 * SIZE * SIZE  # what an E-Branchformer merge makes of a closed half, once for all frames
        for name, cost in costs.items():
            rest = count(lambda layer=layer, i=inputs, m=mask, name=name: layer(i, m, gates={name: CLOSED}))
            assert whole - rest == pytest.approx(cost, rel=1e-6, abs=constant)
        assert shares(list(costs.values())).sum() == pytest.approx(1.0)


def positions(layer: nn.Module) -> int:
    """Length of the position embedding a layer's attention wants, 0 for none."""
    attn = getattr(layer, "self_attn", getattr(layer, "attn", None))
    if not hasattr(attn, "linear_pos"):
        return 0
    return FRAMES if "Legacy" in type(attn).__name__ else 2 * FRAMES - 1


def count(call: Callable[[], Any]) -> float:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        call()
    return counter.get_total_flops()


# -- errors -------------------------------------------------------------------------------------------
@EVERY
def test_unknown_module_is_named(variant: str) -> None:
    cls, options = VARIANTS[variant]
    with pytest.raises(ValueError, match="gating.modules must be among .* got 'attention'"):
        cls(INPUT, **options, gating={"modules": ["attention"]})


@EVERY
def test_layers_keep_no_cache(variant: str) -> None:
    _, gated = build(variant)
    x, mask = layer_input(gated, variant)
    with pytest.raises(NotImplementedError, match="cache is not supported"):
        gated.encoders[0](x, mask, cache=x)
