"""Laws 1 to 7 of docs/design.md over encoders × tasks × gate levels, on tiny random models in float64.

The families' variants, the decoder's options, searches and drawn gates have tests of their own; this suite is the
cross product: every law for everything that a YAML can put together.
"""

from functools import cache
from typing import Any

import pytest
import torch
from tiny_tasks import DECODER_CONF, ENCODER_CONF, batch, build, labels, task_class
from torch import Tensor

from espnet_gated.analysis.flops import measure_flops
from espnet_gated.gating import sampler
from espnet_gated.gating.costs import linear_flops

LEVELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # gating of encoder, decoder
    "utterance": ({}, {}),
    "hierarchy": ({"hierarchy": True}, {"hierarchy": True}),
    "local": ({"level": "layer"}, {"level": "token"}),
    "local_hierarchy": ({"level": "layer", "hierarchy": True}, {"level": "token", "hierarchy": True}),
}
LANGS = ("deu", "eng", "ita")
STACKS = ("encoder", "decoder")
EXACT = {"rtol": 1e-9, "atol": 1e-10}
TASKS = ("s2t", "asr", "st", "mt")


def everything(test: Any) -> Any:
    for name, values in (("level", LEVELS), ("encoder", ENCODER_CONF), ("task", TASKS)):
        test = pytest.mark.parametrize(name, list(values))(test)
    return test


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def options_for(task: str, encoder: str, level: str) -> dict[str, Any]:
    of_encoder, of_decoder = LEVELS[level]
    encoder_conf, decoder_conf = ENCODER_CONF[encoder], DECODER_CONF
    context = {} if task == "s2t" else {"context": {"lang": {"category": list(LANGS)}}}
    return {
        "encoder": encoder,
        "encoder_conf": encoder_conf | {"gating": encoder_conf["gating"] | of_encoder},
        "decoder_conf": decoder_conf | {"gating": decoder_conf["gating"] | of_decoder},
        "model_conf": {**context, "context_dropout": 0.0},
    }


def spread(model: torch.nn.Module) -> None:
    """Biases, norms and predictors that matter."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data += 0.3 * noise


@cache
def made(task: str, encoder: str, level: str) -> Any:
    model = build(task, **options_for(task, encoder, level)).eval()
    spread(model)
    for predictor in model.gate_predictors().values():
        for name, parameter in predictor.named_parameters():
            parameter.data *= 0.0 if name.endswith("output.bias") else 2.0  # no gate is always open or closed
    return model


def model_of(task: str, encoder: str, level: str, sparsity: float | None = None, budget: str | None = None) -> Any:
    model = made(task, encoder, level).eval()
    model.set_sparsity(sparsity, sparsity, budget)
    return model


def data_of(task: str) -> dict[str, Tensor]:
    """A batch whose utterances differ in language; rows of one length, as ESPnet's convolutions see the padding."""
    data = batch(task)
    data |= {name: torch.full_like(value, int(value.max())) for name, value in data.items() if name in LENGTHS}
    if "src_text" in data:
        data["src_text"] = data["src_text"].clamp(min=1)
    if task != "s2t":
        data["lang"] = labels(*LANGS)
    return data


LENGTHS = ("speech_lengths", "src_text_lengths")


def encode(model: Any, data: dict[str, Tensor]) -> Tensor:
    """Encoder output (B, T, size)."""
    source = "speech" if "speech" in data else "src_text"
    with model.gating(context(model, data)):
        return model.encode(data[source], data[f"{source}_lengths"])[0]


def context(model: Any, data: dict[str, Tensor]) -> Any:
    found = model.context_of(data)
    return type(found)(found.categories, found.vectors)  # without drawn targets


def decoder_input(model: Any, data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, L) tokens behind ``<sos>``, and lengths."""
    text = data["text"].clamp(min=8)
    text[:, :3] = data["text"][:, :3]
    return torch.cat([text.new_full((len(text), 1), model.sos), text], dim=1), data["text_lengths"] + 1


def decode(model: Any, data: dict[str, Tensor], memory: Tensor) -> Tensor:
    """Scores of whole sequences (B, L, vocab)."""
    ys, lengths = decoder_input(model, data)
    with model.gating(context(model, data)):
        return model.decoder(memory, torch.full((len(memory),), memory.size(1)), ys, lengths)[0]


def rows_of(data: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One utterance alone, its text without padding."""
    alone = {name: value[row : row + 1] for name, value in data.items()}
    return alone | {"text": alone["text"][:, : int(alone["text_lengths"])]}


def opened(model: Any) -> dict[str, Tensor]:
    """Open shares of each stack as decided last, (B, M)."""
    return {name: predictor.last.values.clone() for name, predictor in model.gate_predictors().items()}


# -- 1: open gates are ESPnet -------------------------------------------------------------------------
@everything
@torch.no_grad()
def test_open_gates_are_espnet(task: str, encoder: str, level: str) -> None:
    """The dense state dict loads; loss and statistics are ESPnet's, for ``budget: open`` and for sparsity 0."""
    gated = model_of(task, encoder, level, budget="open")
    plain = {k: v for k, v in ENCODER_CONF[encoder].items() if k != "gating"}
    decoder = {k: v for k, v in DECODER_CONF.items() if k != "gating"}
    names = {"encoder": encoder.removeprefix("gated_"), "decoder": "transformer"}
    choices = next(c for c in task_class(task).class_choices_list if c.name == "encoder")
    if names["encoder"] not in choices.classes:
        pytest.skip(f"ESPnet's {task} task has no {names['encoder']} to compare with")
    dense = build(task, **names, encoder_conf=plain, decoder_conf=decoder).eval()
    dense.load_state_dict({k: v for k, v in gated.state_dict().items() if "gate_predictor" not in k})
    data = batch(task)
    expected, known, _ = dense(**data)
    for sparsity, budget in ((None, "open"), (0.0, None)):
        gated.set_sparsity(sparsity, sparsity, budget)
        loss, stats, _ = gated(**batch(task))
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0.0)
        for name, value in known.items():
            assert value is None or float(stats[name]) == pytest.approx(float(value), rel=1e-9), name
        assert all(float(stats[f"sparsity_{stack}"]) == pytest.approx(0.0, abs=1e-6) for stack in STACKS)


# -- 2: skipping is masking ---------------------------------------------------------------------------
@everything
@torch.no_grad()
def test_skipping_is_masking(task: str, encoder: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is skipped by the threshold is what the training graph multiplies by zero, its noise taken off."""
    model, between = model_of(task, encoder, level), set()
    for sparsity in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        model.eval()
        model.set_sparsity(sparsity, sparsity, "learned")
        skipped, stats, _ = model(**data_of(task))
        decided = opened(model)
        between |= {stack for stack in STACKS if 0.0 < float(stats[f"sparsity_{stack}"]) < 1.0}
        with monkeypatch.context() as patch:
            patch.setattr(sampler, "logistic_noise", torch.zeros_like)
            for predictor in model.gate_predictors().values():
                predictor.train()
            masked, _, _ = model(**data_of(task))
        torch.testing.assert_close(skipped, masked, rtol=1e-9, atol=0.0)
        for stack, values in opened(model).items():
            torch.testing.assert_close(values, decided[stack], **EXACT)
    assert between  # a stack that is neither open nor closed as a whole: else the law is worth nothing


# -- 3: a batch is its rows ---------------------------------------------------------------------------
@everything
@pytest.mark.parametrize("budget", ["exact", "learned"])
@torch.no_grad()
def test_a_batch_is_its_rows(task: str, encoder: str, level: str, budget: str) -> None:
    """Each with its own context, gates and length of text."""
    model, data = model_of(task, encoder, level, sparsity=0.5, budget=budget), data_of(task)
    memory = encode(model, data)
    scores = decode(model, data, memory)
    together = opened(model)
    for row in range(len(memory)):
        alone = rows_of(data, row)
        torch.testing.assert_close(encode(model, alone)[0], memory[row], **EXACT)
        length = int(data["text_lengths"][row]) + 1
        torch.testing.assert_close(
            decode(model, alone, memory[row : row + 1])[0, :length], scores[row, :length], **EXACT
        )
        for stack, values in opened(model).items():
            torch.testing.assert_close(values[0], together[stack][row], **EXACT)


# -- 4: the cache is invisible ------------------------------------------------------------------------
@everything
@pytest.mark.parametrize("budget", ["exact", "learned"])
@torch.no_grad()
def test_the_cache_is_invisible(task: str, encoder: str, level: str, budget: str) -> None:
    """Steps of hypotheses that branch and drop out score as the whole graph does."""
    model, data = model_of(task, encoder, level, sparsity=0.5, budget=budget), data_of(task)
    memory = encode(model, data)
    ys, _ = decoder_input(model, data)
    utts, ys = [0, 1, 2], ys[:, :3]
    with model.gating(context(model, data)):
        cached = model.decoder.start(memory, None, ys)
    for rows in ([0, 0, 1, 1, 2], [0, 1, 3, 4, 4], [1, 0, 2], [2]):
        scores, _, cached = model.decoder.step(ys, cached)
        picked = {name: value[utts] for name, value in data.items()}
        with model.gating(context(model, picked)):
            lengths = torch.full((len(utts),), memory.size(1))
            whole, _ = model.decoder(memory[utts], lengths, ys, torch.full((len(utts),), ys.size(1)))
        torch.testing.assert_close(scores, whole[:, -1], **EXACT)
        cached, ys = cached.select(rows), ys[rows]
        utts = [utts[r] for r in rows]
        ys = torch.cat([ys, 8 + torch.arange(len(rows))[:, None] % 3], dim=1)


# -- 5: FLOPs are measured ----------------------------------------------------------------------------
@everything
@torch.no_grad()
def test_flops_fall_by_what_is_closed(task: str, encoder: str, level: str) -> None:
    """The encoder's by the cost of the closed modules, within 1 %; the predictor's own are no more than it says."""
    model, data = model_of(task, encoder, level, budget="open"), rows_of(data_of(task), 0)
    predictor, layers = model.encoder.gate_predictor, model.encoder.encoders
    memory, whole = measure_flops(lambda: encode(model, data))
    model.set_sparsity(0.5, 0.5)
    _, dynamic = measure_flops(lambda: encode(model, data))
    mask = tuple(predictor.last.values[0].tolist())
    predictor.set_policy(0.5, "fixed", mask=mask)
    _, fixed = measure_flops(lambda: encode(model, data))
    costs = [layer.module_costs(memory.size(1)) for layer in layers]
    gates = zip(predictor.names, mask, strict=True)
    closed = sum(costs[index][name] for (index, name), value in gates if not value)
    constants = len(layers) * 2 * memory.size(2) ** 2  # what a merge makes of a closed branch, once for all frames
    own = linear_flops(predictor, 1.0)  # with every gate open it is not asked
    assert 0.0 < closed == pytest.approx(whole - fixed, rel=0.01, abs=constants + own)
    tried = [len(predictor.columns(index)) for index in range(len(layers)) if predictor.is_local]
    sums = sum(2.0 * count * 2**count for count in tried)  # over the sets of a layer's modules
    assert 0.0 <= dynamic - fixed <= linear_flops(predictor, 1.0) + sums


@everything
@torch.no_grad()
def test_decoding_costs_less_with_closed_gates(task: str, encoder: str, level: str) -> None:
    model, data = model_of(task, encoder, level, budget="open"), rows_of(data_of(task), 0)
    memory = encode(model, data)[:1]
    spent = []
    for sparsity in (0.0, 0.4, 0.9):
        model.set_sparsity(sparsity, sparsity)
        ys, _ = decoder_input(model, data)

        def steps(ys: Tensor = ys) -> None:
            cached = model.decoder.start(memory, None, ys[:, :1])
            for length in range(1, ys.size(1) + 1):
                _, _, cached = model.decoder.step(ys[:, :length], cached)

        flops = measure_flops(steps)[1]
        looks = ys.size(1) if level.startswith("local") else 1
        spent.append(flops - (sparsity > 0) * looks * linear_flops(model.decoder.gate_predictor, 1.0))
    assert spent[0] > spent[1] > spent[2]


# -- 6: a budget is a promise -------------------------------------------------------------------------
@everything
@torch.no_grad()
def test_a_budget_is_kept(task: str, encoder: str, level: str) -> None:
    """By every utterance; and what is left of it is less than its layers' largest."""
    model, data = model_of(task, encoder, level), data_of(task)
    for sparsity in (0.1, 0.35, 0.5, 0.8):
        model.set_sparsity(sparsity, sparsity, "exact")
        decode(model, data, encode(model, data))
        for predictor in model.gate_predictors().values():
            skipped = predictor.last.skipped()
            assert (skipped >= sparsity - 1e-6).all()
            layers = {index for index, _ in predictor.names}
            largest = max(float(predictor.costs[predictor.columns(index)].sum()) for index in layers)
            assert (skipped <= sparsity + largest).all()


# -- 7: context matters -------------------------------------------------------------------------------
@everything
def test_context_matters(task: str, encoder: str, level: str) -> None:
    """The loss teaches every parameter of the predictors, the context's too; another language, other gates."""
    model, data = model_of(task, encoder, level), data_of(task)
    model.zero_grad()
    model.train()
    model(**data)[0].backward()
    for predictor in model.gate_predictors().values():
        for name, parameter in predictor.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    model.eval()
    model.set_sparsity(0.5, 0.5)
    said = []
    for shift in range(2):
        other = {k: v.roll(shift, 0) if k == "lang" else v for k, v in data.items()}
        if task == "s2t":
            other["text"] = torch.cat([data["text"][:, :1].roll(shift, 0), data["text"][:, 1:]], dim=1)
        with torch.no_grad():
            decode(model, other, encode(model, other))
        said.append({stack: p.last.logits for stack, p in model.gate_predictors().items()})
    for stack in STACKS:
        assert not torch.allclose(said[0][stack], said[1][stack])
    unknown = {name: value for name, value in data.items() if name != "lang"}
    if task == "s2t":
        unknown["text"] = torch.cat([torch.zeros_like(data["text"][:, :1]), data["text"][:, 1:]], dim=1)
    with torch.no_grad():
        assert decode(model, unknown, encode(model, unknown)).isfinite().all()
