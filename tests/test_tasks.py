"""Every gated name in every task: one word in the YAML makes a gated model that trains."""

import argparse
import pickle
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from espnet2.tasks import abs_task
from espnet2.train import trainer
from tiny_tasks import (
    DECODER_CONF,
    DENSE,
    ENCODER_CONF,
    GATING,
    ROWS,
    SHAPE,
    TASKS,
    batch,
    build,
    labels,
    options_of,
    task_class,
)
from torch import Tensor

import espnet_gated
from espnet_gated.gating.context import GatingContext
from espnet_gated.registry import CLASSES, ENCODERS
from espnet_gated.tasks import gate_model, leaves_parameters_out, start_anew


# -- names --------------------------------------------------------------------------------------------
def test_table_of_the_tests_is_complete() -> None:
    assert set(ENCODER_CONF) == set(ENCODERS)
    assert {f"espnet2.tasks.{task}" for task in TASKS} == set(CLASSES)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("task", TASKS)
def test_one_word_makes_a_gated_model(task: str, encoder: str) -> None:
    """It trains: a loss with a gradient for both predictors, and the statistics of both stacks."""
    model = build(task, encoder=encoder)
    assert type(model) is TASKS[task][1]
    loss, stats, _ = model(**batch(task))
    loss.backward()
    for stack in ("encoder", "decoder"):
        assert stats[f"sparsity_{stack}"].numel() == 1
        assert getattr(model, stack).gate_predictor.output.weight.grad.abs().sum() > 0
    assert "loss_sparsity" in stats


@pytest.mark.parametrize("task", [t for t in TASKS if t != "st"])
def test_model_may_be_named(task: str) -> None:
    model = build(task, model="gated", model_conf={"sparsity_weight": 3.0})
    assert type(model) is TASKS[task][1]
    assert model.sparsity_weight == 3.0


@pytest.mark.parametrize(
    ("gating", "targets_per", "unused"),
    [
        ({}, "utterance", False),
        ({"freeze_steps": 3}, "utterance", True),
        ({"condition_on": ["context", "sparsity"]}, "utterance", True),
        ({"condition_on": ["features", "sparsity"]}, "utterance", True),
        ({"condition_on": ["features", "context"]}, "utterance", True),
        ({}, "batch", True),
    ],
)
def test_data_parallel_training_is_told_of_parameters_without_a_gradient(
    gating: dict[str, Any], targets_per: str, unused: bool
) -> None:
    gated = {**DECODER_CONF, "gating": {**GATING, **gating}}
    options = options_of("s2t", decoder_conf=gated, model_conf={"targets_per": targets_per})
    training = {"optim": "adam", "optim_conf": {}, "sharded_ddp": False, "exclude_weight_decay": False}
    args = argparse.Namespace(**options, **training, unused_parameters=False)
    task = task_class("s2t")
    model = task.build_model(args)
    assert not args.unused_parameters
    task.build_optimizers(args, model)  # which ESPnet-EZ calls, too, for a model that is handed to it
    assert args.unused_parameters == unused


def test_a_vector_that_the_data_need_not_have_leaves_parameters_out() -> None:
    assert leaves_parameters_out(build("s2t", model_conf={"context": {"speaker": {"vector": 8}}}))
    assert not leaves_parameters_out(build("s2t"))


def test_a_model_that_was_trained_may_start_anew() -> None:
    model = build("s2t")
    for predictor in (model.encoder.gate_predictor, model.decoder.gate_predictor):
        predictor.num_updates.fill_(7)
        predictor.thresholds.fill_(0.5)
    weights = {k: v.clone() for k, v in model.state_dict().items() if "num_updates" not in k and "thresholds" not in k}
    start_anew(model)
    state = model.state_dict()
    assert not any(state[k].any() for k in state if "num_updates" in k or "thresholds" in k)
    assert all(torch.equal(state[k], v) for k, v in weights.items())


@pytest.mark.parametrize("init", ["xavier_uniform", "chainer"])
@pytest.mark.parametrize("name", ["espnet", "gated"])
def test_the_option_init_leaves_predictors_where_they_start(init: str, name: str) -> None:
    """ESPnet's ``init`` would zero every bias, which holds the priors, and draw wide matrices."""
    decoder = {**DECODER_CONF, "gating": {**GATING, "prior": 2.0}}
    torch.manual_seed(0)
    plain = build("s2t", decoder_conf=decoder).decoder.gate_predictor
    predictor = build("s2t", decoder_conf=decoder, init=init, model=name).decoder.gate_predictor
    assert plain.output.bias.abs().max() == 2.0
    assert torch.equal(predictor.output.bias, plain.output.bias)
    for of, like in zip(predictor.parameters(), plain.parameters(), strict=True):
        assert float(of.std()) == pytest.approx(float(like.std()), rel=1.5, abs=1e-6)
    asked = predictor.logits(torch.randn(4, predictor.norm.normalized_shape[0]), torch.full((4,), 0.5))
    assert (asked - predictor.output.bias * predictor.config.gate_speed).abs().max() < 0.5


@pytest.mark.parametrize("task", TASKS)
def test_dense_model_stays_dense(task: str) -> None:
    assert type(build(task, **DENSE)).__module__.startswith("espnet2.")


@pytest.mark.parametrize("task", TASKS)
def test_options_of_gates_on_a_dense_model_are_an_error(task: str) -> None:
    with pytest.raises(ValueError, match="model_conf.sparsity_weight is for gated models; .* has no gated encoder"):
        build(task, **DENSE, model_conf={"sparsity_weight": 1.0})


def test_other_model_classes_have_no_gated_twin() -> None:
    with pytest.raises(ValueError, match="model_conf.context is for gated models; this one is a Linear"):
        gate_model(torch.nn.Linear(1, 1), {"context": {}})
    with pytest.raises(ValueError, match="a MaskCTCModel cannot have a gated encoder or decoder: nothing would teach"):
        build("asr", model="maskctc", decoder="mlm", decoder_conf=DENSE["decoder_conf"], model_conf={"ctc_weight": 0.3})


def test_processes_that_espnet_starts_know_the_gated_names(tmp_path: Path) -> None:
    """As with several GPUs: what they shall run is pickled, and ESPnet's task is imported before that is read."""
    file = tmp_path / "worker"
    file.write_bytes(pickle.dumps(task_class("asr").main_worker))
    code = (
        "import pickle, sys; from espnet2.tasks import asr; worker = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert worker.args == (asr.ASRTask,), worker\n"
        "assert 'gated_transformer' in asr.encoder_choices.classes and 'gated' in asr.model_choices.classes"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)


def test_workers_run_espnet_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    task, called = task_class("asr"), []
    worker = vars(abs_task.AbsTask)["main_worker"]
    monkeypatch.setattr(worker, "original", classmethod(lambda cls, args: called.append((cls, args))))
    options = argparse.Namespace()
    task.main_worker(options)
    assert called == [(task, options)]


def test_attention_is_plotted_of_the_whole_model() -> None:
    """ESPnet's plots want the weights of each utterance in each attention."""
    model = build("s2t").eval()
    model.set_sparsity(0.9)
    before = [p.policy for p in model.gate_predictors().values()]
    found = trainer.calculate_all_attentions(model, batch("s2t"))
    assert len(found) == 2 + 2 * 2 and all(len(weights) == ROWS for weights in found.values())
    assert [p.policy for p in model.gate_predictors().values()] == before


def test_task_without_gated_classes_is_named() -> None:
    with pytest.raises(ValueError, match="no gated classes for 'espnet2.tasks.tts'"):
        espnet_gated.register("espnet2.tasks.tts")


def test_registering_twice_changes_nothing() -> None:
    task = task_class("asr")
    before = task.build_model.__func__
    assert task_class("asr").build_model.__func__ is before


# -- all stacks of a task -----------------------------------------------------------------------------
def test_st_gates_its_extra_parts() -> None:
    """Extra ASR and MT decoders, hierarchical encoder: each with its own target."""
    hidden = SHAPE | {"linear_units": 12, "input_layer": None}
    model = build(
        "st",
        hier_encoder="gated_conformer",
        hier_encoder_conf=hidden | {"cnn_module_kernel": 3},
        extra_asr_decoder="gated_transformer",
        extra_asr_decoder_conf=DECODER_CONF,
        extra_mt_encoder="transformer",
        extra_mt_encoder_conf=DENSE["encoder_conf"] | {"input_layer": "embed"},
        extra_mt_decoder="gated_transformer",
        extra_mt_decoder_conf=DECODER_CONF,
        model_conf={"asr_weight": 0.3, "mt_weight": 0.3, "mtlalpha": 0.3, "report_cer": False, "report_wer": False},
    )
    # ESPnet's model takes two results of this encoder, which only its Hugging Face encoder gives.
    forward = model.extra_mt_encoder.forward
    model.extra_mt_encoder.forward = lambda *inputs: forward(*inputs)[:2]
    stacks = {"encoder", "hier_encoder", "decoder", "extra_asr_decoder", "extra_mt_decoder"}
    assert set(model.gate_predictors()) == stacks
    data = batch("st")
    data["src_text"] = data["src_text"].clamp(min=1)  # ESPnet gives it to the MT encoder as it is
    loss, stats, _ = model(**data)
    loss.backward()
    for stack in stacks - {"extra_mt_decoder"}:  # which ESPnet 202511 builds and never calls
        assert f"sparsity_{stack}" in stats
        assert getattr(model, stack).gate_predictor.output.weight.grad.abs().sum() > 0
        assert getattr(model, stack).gate_predictor.num_updates == 1  # MT and ST share a decoder
    model.set_sparsity(0.2, 0.6)
    assert {name: p.policy.sparsity for name, p in model.gate_predictors().items()} == {
        name: 0.6 if name.endswith("decoder") else 0.2 for name in stacks
    }


@pytest.mark.parametrize("task", ["s2t", "asr"])
def test_ctc_without_decoder(task: str) -> None:
    decoder = {"decoder": None} if task == "asr" else {}  # S2T drops its decoder by itself
    model = build(task, **decoder, model_conf={"ctc_weight": 1.0, "distill_weight": 0.1})
    assert model.decoder is None
    loss, stats, _ = model(**batch(task))
    loss.backward()
    assert set(model.gate_predictors()) == {"encoder"}
    assert "sparsity_decoder" not in stats and "loss_distill" in stats


@pytest.mark.parametrize("task", TASKS)
def test_distillation(task: str) -> None:
    model = build(task, model_conf={"distill_weight": 0.5})
    loss, stats, _ = model(**batch(task))
    loss.backward()
    assert stats["loss_distill"] > 0


def test_the_teacher_is_not_asked_for_error_rates() -> None:
    model = build("asr", model_conf={"distill_weight": 0.5, "report_cer": True, "report_wer": True})
    calls: list[int] = []
    model.error_calculator = lambda *inputs, **options: calls.append(1) or (0.0, 0.0)
    model(**batch("asr"))
    assert calls == [] and model.training and model.error_calculator is not None
    model.eval()(**batch("asr"))
    assert calls


def test_distillation_behind_a_postencoder() -> None:
    with pytest.raises(ValueError, match="compares what CTC hears, .* behind a LengthAdaptorPostEncoder"):
        build("asr", postencoder="length_adaptor", postencoder_conf={}, model_conf={"distill_weight": 0.5})


def test_distillation_beside_mt() -> None:
    mt = {"extra_mt_encoder": "transformer", "extra_mt_encoder_conf": DENSE["encoder_conf"] | {"input_layer": "embed"}}
    with pytest.raises(ValueError, match=r"first pass .* which is MT's with mt_weight 0\.3"):
        build("st", **mt, model_conf={"mt_weight": 0.3, "mtlalpha": 0.3, "distill_weight": 0.5})


@pytest.mark.parametrize("task", TASKS)
def test_distillation_of_the_encoder(task: str) -> None:
    model = build(task, model_conf={"distill_encoder": 0.5, "joint_targets": [[0.0, 0.5, 1.0]]})
    loss, stats, _ = model(**batch(task))
    loss.backward()
    assert stats["loss_distill_encoder"] > 0


def test_distillation_of_an_encoder_that_is_not_gated() -> None:
    with pytest.raises(ValueError, match="distill_encoder needs a gated encoder, got TransformerEncoder"):
        build("s2t", encoder=DENSE["encoder"], encoder_conf=DENSE["encoder_conf"], model_conf={"distill_encoder": 0.5})


SEVERAL = {"joint_targets": [[0.0, [0.0, 0.5], 1.0]], "targets_per": "batch", "distill_decoders": 0.5}


@pytest.mark.parametrize("task", ["s2t", "asr"])
def test_several_decoder_targets(task: str) -> None:
    model = build(task, model_conf=SEVERAL)
    loss, stats, _ = model(**batch(task))
    loss.backward()
    assert float(stats["target_decoder"]) == pytest.approx(0.25)
    assert stats["loss_distill_decoder"] > 0


def test_several_decoder_targets_behind_a_language_token() -> None:
    """ESPnet's ASR model counts that token into the lengths in place."""
    model = build("asr", model_conf={**SEVERAL, "lang_token_id": 3})
    loss, stats, _ = model(**batch("asr"))
    loss.backward()
    assert float(stats["target_decoder"]) == pytest.approx(0.25)


@pytest.mark.parametrize("task", ["s2t", "asr"])
def test_several_decoder_targets_need_a_gated_decoder(task: str) -> None:
    with pytest.raises(ValueError, match="list of decoder sparsities need a gated decoder"):
        build(task, decoder=DENSE["decoder"], decoder_conf=DENSE["decoder_conf"], model_conf=SEVERAL)


@pytest.mark.parametrize("task", ["st", "mt"])
def test_several_decoder_targets_are_for_models_with_one_attention_loss(task: str) -> None:
    with pytest.raises(ValueError, match=f"list of decoder sparsities: not for GatedESPnet{task.upper()}Model"):
        build(task, model_conf=SEVERAL)


def test_copies_are_on_their_own() -> None:
    """The primer that a copy's CTC or decoder hears of is the copy's."""
    model = build("s2t")
    copy = deepcopy(model)
    copy.ctc.announce_primer([copy.sos, 3, 5])
    assert copy.encoder.gate_predictor.current.categories["lang"].tolist() == [4]
    assert model.encoder.gate_predictor.current is None


def test_a_gated_checkpoint_is_a_start(tmp_path: Path) -> None:
    """Its weights are taken over, but not how far its training was: masks are not final from the first batch."""
    model = build("s2t", encoder_conf=SHAPE | {"gating": GATING | {"freeze_steps": 2}})
    state = {k: v + 7 if "num_updates" in k or "thresholds" in k else v + 0.5 for k, v in model.state_dict().items()}
    path = tmp_path / "gated.pth"
    torch.save(state, path)
    abs_task.load_pretrained_model(str(path), model, ignore_init_mismatch=False)
    encoder, decoder = (part.gate_predictor for part in (model.encoder, model.decoder))
    assert [int(p.num_updates) for p in (encoder, decoder)] == [0, 0] and not encoder.train().frozen
    assert encoder.thresholds.abs().sum() == 0
    assert torch.equal(encoder.features.weight, state["encoder.gate_predictor.features.weight"])
    key = "encoder.gate_predictor"
    abs_task.load_pretrained_model(f"{path}:{key}:{key}", model, ignore_init_mismatch=False)
    assert [int(p.num_updates) for p in (encoder, decoder)] == [7, 0] and encoder.frozen
    assert encoder.thresholds.min() == 7
    model.load_state_dict(state)  # as a resumed training does
    assert int(decoder.num_updates) == 7


def test_only_one_stack_gated() -> None:
    model = build("asr", decoder="transformer", decoder_conf=DENSE["decoder_conf"])
    assert set(model.gate_predictors()) == {"encoder"}
    model(**batch("asr"))[0].backward()


# -- contexts -----------------------------------------------------------------------------------------
CONTEXT = {"lang": {"category": ["deu", "eng"]}, "speaker": {"vector": 3}}


@pytest.mark.parametrize("task", TASKS)
def test_context_comes_with_the_data(task: str) -> None:
    """Labels and vectors reach both predictors; an unknown label and a missing vector are row 0 and nothing."""
    model = build(task, model_conf={"context": CONTEXT, "context_dropout": 0.0})
    vectors = torch.randn(ROWS, 3, dtype=torch.double)
    vectors[2] = torch.nan
    extra = {"lang": labels("eng", "deu", "xho"), "speaker": vectors}
    lengths = {f"{name}_lengths": torch.ones(ROWS, dtype=torch.long) for name in extra}
    found = model.context_of({**batch(task), **extra})
    assert found.categories["lang"].tolist() == [2, 1, 0]
    loss, _, _ = model(**batch(task), **extra, **lengths)
    assert loss.isfinite()
    loss.backward()
    for predictor in model.gate_predictors().values():
        assert predictor.context.tables["lang"].weight.grad.abs().sum(1).gt(0).all()
        assert predictor.context.tables["speaker"].weight.grad.isfinite().all()
        assert predictor.context.tables["speaker"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("task", TASKS)
def test_context_may_be_absent(task: str) -> None:
    model = build(task, model_conf={"context": CONTEXT})
    model(**batch(task))[0].backward()


def test_tokens_and_categories_together() -> None:
    model = build("s2t", model_conf={"context": {"lang": "token", "device": {"category": ["phone", "server"]}}})
    found = model.context_of({**batch("s2t"), "device": labels("server", "", "phone")}).categories
    assert found["device"].tolist() == [2, 0, 1]
    assert found["lang"].tolist() == [4, 5, 4]  # special tokens of the list, from 1


def logits(model: Any) -> Tensor:
    return model.encoder.gate_predictor.last.logits


def encode(model: Any, **context: Any) -> Tensor:
    with torch.no_grad(), model.gating(GatingContext(**context) if context else None):
        model.encode(*list(batch("asr").values())[2:])
    return logits(model)


def test_default_context_stands_in_for_unknown_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"context": {"lang": CONTEXT["lang"]}}
    plain, german = (build("asr", model_conf=spec | more).eval() for more in ({}, {"default_context": {"lang": "deu"}}))
    monkeypatch.setenv("ESPNET_GATED_CONTEXT", "lang=eng")
    english = build("asr", model_conf=spec | {"default_context": {"lang": "deu"}}).eval()
    for model in (german, english):
        model.load_state_dict(plain.state_dict())
    rows = torch.full((ROWS,), 1)
    assert torch.equal(encode(german), encode(plain, categories={"lang": rows}))
    assert torch.equal(encode(english), encode(plain, categories={"lang": rows + 1}))
    assert not torch.equal(encode(german), encode(plain))
    assert torch.equal(encode(german, categories={"lang": rows + 1}), encode(english))


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"default_context": {"lang": "fra"}}, "default_context.lang must be one of deu, eng, got 'fra'"),
        ({"default_context": {"user": "x"}}, "default_context.user is not declared in context"),
        ({"default_context": {"speaker": "x"}}, r"default_context.speaker must be one of nothing \(it is a vector\)"),
        ({"context_dropout": 2.0}, r"context_dropout must be in \[0, 1\], got 2.0"),
        ({"context": {"lang": "word"}}, "context.lang must be 'token'"),
    ],
)
def test_wrong_context_options_are_named(conf: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("asr", model_conf={"context": CONTEXT} | conf)


def test_wrong_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPNET_GATED_CONTEXT", "deu")
    with pytest.raises(ValueError, match="ESPNET_GATED_CONTEXT"):
        build("asr")


def test_vector_of_another_size_is_named() -> None:
    model = build("asr", model_conf={"context": CONTEXT})
    with pytest.raises(ValueError, match=r"context 'speaker' has 4 values, 3 are declared \(context.speaker\)"):
        model(**batch("asr"), speaker=torch.zeros(ROWS, 4))
