"""The gated S2T model: law 7 (context matters), its losses and statistics, and stock searches in front of it."""

from dataclasses import replace

import pytest
import torch
from espnet.nets.batch_beam_search import BatchBeamSearch
from espnet.nets.beam_search import BeamSearch
from tiny import EOS, ID, NA, SOP, SOS, TOKENS, VOCAB, features, models, nudge, training_batch

from espnet_gated.gating.context import GatingContext
from espnet_gated.gating.loss import sparsity_loss
from espnet_gated.registry import register

EXACT = {"rtol": 0.0, "atol": 1e-10}
STACKS = ("encoder", "decoder")
HALF = {"target_sparsity": 0.5}


@pytest.fixture(scope="module", autouse=True)
def registered():
    register()


def lively(gating=None, **options):
    """A gated model whose untrained predictors look at everything."""
    model = models(HALF | (gating or {}), **options)[1]
    for predictor in model.gate_predictors().values():
        nudge(predictor)
    return model


def context_of(model, text):
    return GatingContext(model.token_context.from_text(torch.as_tensor(text)))


def logits_of(model):
    return {name: predictor.last.logits for name, predictor in model.gate_predictors().items()}


# -- law 1 --------------------------------------------------------------------------------------------
def test_open_gates_have_espnet_s_loss():
    dense, gated = models({"target_sparsity": 0.0}, sparsity_weight=0.0)
    for training in (False, True):
        expected, expected_stats, _ = dense.train(training)(**training_batch())
        loss, stats, _ = gated.train(training)(**training_batch())
        torch.testing.assert_close(loss, expected, **EXACT)
        for name in ("loss_ctc", "loss_att", "acc"):
            torch.testing.assert_close(stats[name], expected_stats[name], **EXACT)
        assert float(stats["sparsity_encoder"]) == pytest.approx(0.0, abs=1e-6)


def test_open_gates_have_espnet_s_loss_with_intermediate_ctc():
    encoder = {"interctc_layer_idx": [1], "interctc_use_conditioning": True}
    dense, gated = models({"target_sparsity": 0.0}, encoder=encoder)
    torch.testing.assert_close(gated(**training_batch())[0], dense(**training_batch())[0], **EXACT)


# -- training -----------------------------------------------------------------------------------------
def test_a_training_step_adds_and_logs_the_sparsity_loss():
    model = lively(sparsity_weight=3.0).train()
    torch.manual_seed(0)
    loss, stats, weight = model(**training_batch())
    task = model.ctc_weight * stats["loss_ctc"] + (1 - model.ctc_weight) * stats["loss_att"]
    assert float(loss) == pytest.approx(float(task) + 3.0 * float(stats["loss_sparsity"]), abs=1e-5)
    assert float(stats["loss"]) == pytest.approx(float(loss), abs=1e-5)
    expected = 0.0
    for name in STACKS:
        gates = model.gate_predictors()[name].last
        assert gates.values.shape[0] == 3
        assert float(stats[f"sparsity_{name}"]) == pytest.approx(float(gates.skipped().mean()), abs=1e-6)
        expected += float(sparsity_loss(gates.skipped(), torch.full((3,), 0.5, dtype=torch.float64)))
    assert float(stats["loss_sparsity"]) == pytest.approx(expected, abs=1e-6)
    assert int(weight) == 3


def test_every_parameter_learns():
    model = models(HALF, context_dropout=0.0)[1].train()
    torch.manual_seed(0)
    for _ in range(8):  # a module that is closed in every row of a batch learns from the next
        model(**training_batch())[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_sparsity_is_learned():
    """A few updates on the sparsity loss alone bring every stack to its own target."""
    model = models(HALF | {"anneal_steps": 1}, context_dropout=0.0)[1].train()
    model.encoder.gate_predictor.output.bias.data += 3.0
    model.decoder.gate_predictor.output.bias.data -= 3.0
    optimizer = torch.optim.Adam([p for q in model.gate_predictors().values() for p in q.parameters()], lr=0.1)
    torch.manual_seed(0)
    gaps = []
    for _ in range(50):
        optimizer.zero_grad()
        _, stats, _ = model(**training_batch())
        half = torch.full((3,), 0.5, dtype=torch.float64)
        sum(sparsity_loss(q.last.skipped(), half) for q in model.gate_predictors().values()).backward()
        optimizer.step()
        gaps.append([abs(float(stats[f"sparsity_{name}"]) - 0.5) for name in STACKS])
    before, after = (torch.tensor(part).mean(0) for part in (gaps[:5], gaps[-5:]))
    assert (before > 0.25).all() and (after < 0.2).all(), (before, after)


@pytest.mark.parametrize("freeze_steps", [0, 1])
def test_the_weight_warms_up(freeze_steps):
    """Also where the masks of one stack are final before the end of the warm-up."""
    model = lively(sparsity_weight=2.0, sparsity_warmup=4).train()
    encoder = model.encoder.gate_predictor
    encoder.config = replace(encoder.config, freeze_steps=freeze_steps)
    added = []
    for _ in range(6):
        _, stats, _ = model(**training_batch())
        task = model.ctc_weight * stats["loss_ctc"] + (1 - model.ctc_weight) * stats["loss_att"]
        added.append(float((stats["loss"] - task) / stats["loss_sparsity"]))
    assert added == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0], abs=1e-5)


def test_validation_reports_sparsity_and_leaves_the_loss_alone():
    model = lively(sparsity_weight=100.0)
    loss, stats, _ = model(**training_batch())
    task = model.ctc_weight * stats["loss_ctc"] + (1 - model.ctc_weight) * stats["loss_att"]
    torch.testing.assert_close(loss.detach(), task)
    assert {"sparsity_encoder", "sparsity_decoder", "loss_sparsity"} <= set(stats)
    for name in STACKS:
        assert float(stats[f"sparsity_{name}"]) >= 0.5 - 1e-5  # an exact budget
    assert all(p.current is None for p in model.gate_predictors().values())


def test_targets_are_drawn_for_each_utterance():
    model = lively({"target_sparsity": [0.2, 0.8], "dense_prob": 0.0}).train()
    seen = []
    original = model.encoder.gate_predictor.forward
    model.encoder.gate_predictor.forward = lambda pooled: (
        seen.append(model.encoder.gate_predictor.asked(pooled)) or original(pooled)
    )
    torch.manual_seed(0)
    _, stats, _ = model(**training_batch())
    assert len(set(seen[0].tolist())) == 3 and ((seen[0] > 0.19) & (seen[0] < 0.81)).all()
    assert float(stats["target_encoder"]) == pytest.approx(float(seen[0].mean()), abs=1e-6)


def test_joint_targets_are_drawn_for_both_stacks_together():
    spread = {"target_sparsity": [0.1, 0.8], "dense_prob": 0.0}
    model = lively(spread, joint_targets=[[0.0, 0.0, 0.3], [0.3, 0.5, 0.5]]).train()
    torch.manual_seed(0)
    text = training_batch()["text"].repeat(400, 1)
    asked = model.context_of({"text": text}).sparsity
    pairs = torch.stack([asked[name] for name in STACKS], dim=1)
    number = len(pairs)
    for point, share in (((0.0, 0.0), 0.3), ((0.3, 0.5), 0.5)):
        here = (pairs - pairs.new_tensor(point)).abs().amax(dim=1) < 1e-6
        assert int(here.sum()) / number == pytest.approx(share, abs=0.05)
        pairs = pairs[~here]
    assert (pairs > 0.1).all() and (pairs < 0.8).all()
    assert len({round(x, 6) for x in pairs.flatten().tolist()}) == pairs.numel()


def test_targets_of_a_whole_batch():
    spread = {"target_sparsity": [0.1, 0.8], "dense_prob": 0.0}
    model = lively(spread, joint_targets=[[0.0, 0.0, 0.3], [0.3, 0.5, 0.5]], targets_per="batch").train()
    torch.manual_seed(0)
    seen = []
    for _ in range(400):
        asked = model.context_of(training_batch()).sparsity
        rows = {tuple(row) for row in torch.stack([asked[name] for name in STACKS], dim=1).tolist()}
        assert len(rows) == 1  # one target for the three utterances
        seen += [tuple(round(x, 6) for x in rows.pop())]
    for point, share in (((0.0, 0.0), 0.3), ((0.3, 0.5), 0.5)):
        assert seen.count(point) / len(seen) == pytest.approx(share, abs=0.08)
    assert len(set(seen)) > 50
    with pytest.raises(ValueError, match="targets_per must be utterance or batch, got 'step'"):
        models(targets_per="step")


def test_a_batch_of_one_target_leaves_closed_modules_out():
    """Final masks that all utterances share: closed modules are not computed, and their weights get no gradient."""
    gating = {"target_sparsity": 0.5, "freeze_steps": 1, "sampler": "budget", "condition_on": ["sparsity"]}
    model = models(gating, targets_per="batch")[1].train()
    for predictor in model.gate_predictors().values():
        predictor.num_updates += 1
    model(**training_batch())[0].backward()
    for name, predictor in model.gate_predictors().items():
        opened = predictor.last.values.bool()
        assert bool((opened == opened[:1]).all())
        layers = getattr(model, name).encoders if name == "encoder" else getattr(model, name).decoders
        for (layer, module), is_open in zip(predictor.names, opened[0].tolist(), strict=True):
            gradients = [p.grad is not None for p in getattr(layers[layer], module).parameters()]
            assert all(gradients) if is_open else not any(gradients), (name, layer, module)


def test_final_masks_that_differ_by_utterance_train_as_if_rows_were_picked(monkeypatch):
    """Law 2 in training: multiplying a module's output by its gate is not computing the rows that it closes."""
    gating = {"target_sparsity": 0.5, "freeze_steps": 1, "sampler": "budget"}
    found = []
    for multiply_from in (None, 0.0, 0.6):
        monkeypatch.setattr("espnet_gated.gating.predictor._MULTIPLY_FROM", multiply_from)
        model = lively(gating, context_dropout=0.0).train()
        for predictor in model.gate_predictors().values():
            predictor.num_updates += 1
        loss, _, _ = model(**training_batch())
        loss.backward()
        kinds = {
            gate.soft for p in model.gate_predictors().values() for gate in map(p.last._module, range(len(p.names)))
        }
        assert kinds == ({False} if multiply_from is None else {False, True})
        found.append((loss.detach(), model.encoder.after_norm.weight.grad, model.decoder.after_norm.weight.grad))
        for predictor in model.gate_predictors().values():
            assert bool((predictor.last.values != predictor.last.values[:1]).any())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_joint_targets_rise_with_the_warmup():
    model = lively({"target_sparsity": 0.5, "warmup_steps": 100}, joint_targets=[[0.2, 0.4, 1.0]]).train()
    for predictor in model.gate_predictors().values():
        predictor.num_updates += 50
    asked = model.context_of(training_batch()).sparsity
    assert [asked[name].tolist() for name in STACKS] == [pytest.approx([0.1] * 3), pytest.approx([0.2] * 3)]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[0.3, 0.5]], r"joint_targets takes \[encoder, decoder, share\] each, got \[0.3, 0.5\]"),
        ([[0.3, [], 0.1]], r"joint_targets takes \[encoder, decoder, share\] each, got \[0.3, \[\], 0.1\]"),
        ([[0.3, [0.0, 1.5], 0.1]], r"sparsity must be in \[0, 1\), got 1.5 \(joint_targets\)"),
        ([[0.3, 1.5, 0.1]], r"sparsity must be in \[0, 1\), got 1.5 \(joint_targets\)"),
        ([[0.0, 0.0, 0.7], [0.0, 0.5, 0.4]], r"shares of joint_targets must .* at most 1, got \[0.7, 0.4\]"),
        ([[0.0, 0.0, -0.1]], r"shares of joint_targets must be at least 0"),
    ],
)
def test_impossible_joint_targets(points, message):
    with pytest.raises(ValueError, match=message):
        models(joint_targets=points)


def test_gated_modules_can_be_chosen():
    model = models({"modules": ["feed_forward"]})[1]
    assert {name for _, name in model.encoder.gate_predictor.names} == {"feed_forward"}
    assert {name for _, name in model.decoder.gate_predictor.names} == {"feed_forward"}
    with pytest.raises(ValueError, match="gating.modules must be among .*, got 'self_attn'"):
        models({"modules": ["self_attn"]})


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_impossible_context_dropout(value):
    with pytest.raises(ValueError, match=rf"context_dropout must be in \[0, 1\], got {value}"):
        models(context_dropout=value)


def test_state_dicts_make_the_round_trip():
    model = lively().train()
    model(**training_batch())
    other = models(HALF, seed=3)[1]
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval()(**training_batch())[0], model.eval()(**training_batch())[0])
    assert int(other.encoder.gate_predictor.num_updates) == 1


# -- law 7 --------------------------------------------------------------------------------------------
def test_another_language_or_task_can_change_the_gates():
    model = lively({"sparsity_unit": "modules"})  # any half of the modules is within the budget
    batch = training_batch(rows=1)
    model(**batch)
    before = logits_of(model)
    for position, token in ((0, "<ita>"), (1, "<st_eng>")):
        other = {k: v.clone() for k, v in batch.items()}
        other["text"][0, position] = ID[token]
        model(**other)
        for name in STACKS:  # logits: whether a gate flips depends on the threshold only
            change = (logits_of(model)[name] - before[name]).abs()
            assert change.max() > 0.1, (name, token)
    masks = {name: set() for name in STACKS}
    for token in ("<deu>", "<eng>", "<ita>"):
        other = {k: v.clone() for k, v in batch.items()}
        other["text"][0, 0] = ID[token]
        model(**other)
        for name in STACKS:
            masks[name].add(tuple(model.gate_predictors()[name].last.values[0].tolist()))
    assert all(len(found) > 1 for found in masks.values())


def test_the_gradient_reaches_the_context_embeddings():
    model = lively(context_dropout=0.0, sparsity_weight=0.0).train()
    batch = training_batch()
    model(**batch)[0].backward()
    for name, predictor in model.gate_predictors().items():
        for position, field in enumerate(("lang", "task")):
            gradient = predictor.context.tables[field].weight.grad
            used = model.token_context.from_text(batch["text"])[field].unique()
            assert (gradient[used].abs().sum(-1) > 0).all(), (name, position)


def test_text_and_primer_open_the_same_gates():
    """Training reads the context from the text, decoding from the primer; previous text in front changes nothing."""
    model = lively()
    batch = training_batch()
    model(**batch)
    encoder_logits = logits_of(model)["encoder"]
    context = context_of(model, batch["text"])
    for row in range(3):
        primer = [SOS, *batch["text"][row, :3].tolist()]
        for front in ([], [SOP, ID["b"], ID["<eng>"], ID["c"]]):
            found = model.token_context.from_primer(torch.tensor([front + primer]))
            assert {k: int(v) for k, v in found.items()} == {k: int(v[row]) for k, v in context.categories.items()}
    memory, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    assert not torch.allclose(logits_of(model)["encoder"], encoder_logits)  # here nobody has said the language
    with model.gating(context):
        model.encode(batch["speech"], batch["speech_lengths"])
    torch.testing.assert_close(logits_of(model)["encoder"], encoder_logits, **EXACT)


@torch.no_grad()
def test_a_decoder_reads_the_context_from_its_input_where_nobody_sets_it():
    model = lively()
    memory, lengths = features(7, 6, 5, size=model.encoder.output_size())
    primers = [[SOS, ID["<ita>"], ID["<asr>"]], [SOS, ID["<deu>"], ID["<asr>"]], [SOS, NA, ID["b"]]]
    model.decoder(memory, lengths, torch.tensor(primers), torch.tensor([3, 3, 3]))
    read = model.decoder.gate_predictor.last.logits
    with model.gating(context_of(model, [p[1:] for p in primers])):
        model.decoder(memory, lengths, torch.tensor(primers), torch.tensor([3, 3, 3]))
    torch.testing.assert_close(model.decoder.gate_predictor.last.logits, read, **EXACT)


@pytest.mark.parametrize("cls", [BeamSearch, BatchBeamSearch])
@pytest.mark.parametrize("lang", ["<ita>", "<unk>", "b"])
@torch.no_grad()
def test_stock_searches_announce_their_primer(cls, lang):
    """Encoder and decoder hear of the language before the encoder runs; unknown ones decode too."""
    model = lively()
    scorers, weights = {"decoder": model.decoder}, {"decoder": 1.0}
    search = cls(scorers, weights, beam_size=2, vocab_size=VOCAB, sos=SOS, eos=EOS, token_list=list(TOKENS))
    primer = [SOP, ID["b"], SOS, ID[lang], ID["<asr>"], ID["<notimestamps>"]]
    search.set_hyp_primer(primer)
    speech, lengths = features(12)
    memory, _ = model.encode(speech, lengths)
    found = search(memory[0])
    assert found and found[0].yseq[: len(primer)].tolist() == primer
    heard = logits_of(model)
    search.set_hyp_primer(None)
    with model.gating(context_of(model, [primer[3:]])):
        model.encode(speech, lengths)
        search(memory[0])
    for name in STACKS:
        torch.testing.assert_close(logits_of(model)[name], heard[name], **EXACT)


def test_a_model_without_contexts_trains_and_decodes():
    model = lively(context={}).train()
    model(**training_batch())[0].backward()
    model.eval()
    memory, lengths = features(7, size=model.encoder.output_size())
    scores, _ = model.decoder.score(torch.tensor([SOS, ID["<deu>"]]), None, memory[0])
    assert scores.isfinite().all()


def test_the_environment_asks_for_a_sparsity(monkeypatch):
    """Stock command lines have no option for it."""
    monkeypatch.setenv("ESPNET_GATED_SPARSITY", "0.25,0.75")
    model = models(HALF)[1]
    assert [model.gate_predictors()[name].policy.sparsity for name in STACKS] == [0.25, 0.75]
    monkeypatch.setenv("ESPNET_GATED_SPARSITY", "1.3")
    with pytest.raises(ValueError, match=r"got 1.3 \(ESPNET_GATED_SPARSITY\)"):
        models(HALF)


def test_a_ctc_only_model_has_an_encoder_s_gates():
    model = models(HALF, ctc_weight=1.0)[1]
    assert set(model.gate_predictors()) == {"encoder"}
    _, stats, _ = model.train()(**training_batch())
    assert "sparsity_encoder" in stats and "sparsity_decoder" not in stats


def test_decoders_know_what_the_encoder_skips():
    """Thresholds of the learned budget depend on it; where nothing is asked it is the encoder's default."""
    model = models({"target_sparsity": 0.4})[1]
    for asked, before in (((0.3, 0.5), 0.3), ((None, 0.5), 0.4), ((0.0, None), 0.0)):
        model.set_sparsity(*asked)
        assert model.decoder.gate_predictor.policy.before == before
        assert model.encoder.gate_predictor.policy.before == 0.0


def test_validation_sees_the_middle_of_the_range_whatever_the_encoder_is_asked():
    gating = {"target_sparsity": 0.5, "sparsity_unit": "modules"}
    model = models(gating)[1].eval()
    predictor = model.decoder.gate_predictor
    predictor.config = replace(predictor.config, target_sparsity=(0.0, 0.7))
    model.set_sparsity()
    assert float(model(**training_batch())[1]["target_decoder"]) == pytest.approx(0.35)
    model.set_sparsity(0.5, 0.2)
    assert float(model(**training_batch())[1]["target_decoder"]) == pytest.approx(0.2)
