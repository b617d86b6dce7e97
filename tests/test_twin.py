"""Dense models become gated ones in place, and checkpoints load or say why not."""

import pytest
import torch
from tiny import decoders, encoders, features, models, training_batch

from espnet_gated.decoder import GatedTransformerDecoder
from espnet_gated.encoder import GatedEBranchformerEncoder
from espnet_gated.twin import gate_in_place, load_weights


@pytest.mark.parametrize("training", [False, True])
def test_a_dense_model_computes_the_same_after_it_is_gated(training):
    dense, _ = models()
    dense.train(training)
    keys, loss = set(dense.state_dict()), dense(**training_batch())[0]
    assert gate_in_place(dense, {"hidden_units": 4}) == ["encoder", "decoder"]
    assert type(dense.encoder) is GatedEBranchformerEncoder and type(dense.decoder) is GatedTransformerDecoder
    assert all(".gate_predictor." in key for key in set(dense.state_dict()) - keys)
    assert dense.encoder.gate_predictor.training is training
    assert next(dense.encoder.gate_predictor.parameters()).dtype == torch.float64
    assert gate_in_place(dense) == []  # gated already
    dense.eval()
    memory, _, _ = dense.encoder(*features(12, 9))
    assert memory.isfinite().all()
    if not training:
        torch.testing.assert_close(dense(**training_batch())[0], loss, rtol=0, atol=1e-12)


def test_other_families_are_left_alone():
    model = torch.nn.Module()
    model.encoder = torch.nn.Linear(2, 2)
    assert gate_in_place(model) == [] and type(model.encoder) is torch.nn.Linear


@pytest.mark.parametrize("stacks", [encoders, decoders])
def test_checkpoints_load_both_ways(stacks, tmp_path):
    """Dense into gated (only gates may be missing), gated into gated, gated into dense (the gates are left out)."""
    dense, gated = stacks()
    files = {}
    for name, module in (("dense", dense), ("gated", gated)):
        holder = torch.nn.ModuleDict({"stack": module})
        files[name] = tmp_path / f"{name}.pth"
        torch.save(holder.state_dict(), files[name])
    other_dense, other_gated = stacks(seed=5)
    before = {k: v.clone() for k, v in other_gated.gate_predictor.state_dict().items()}
    load_weights(torch.nn.ModuleDict({"stack": other_gated}), str(files["dense"]))
    for key, value in dense.state_dict().items():
        assert torch.equal(other_gated.state_dict()[key], value), key
    for key, value in before.items():
        assert torch.equal(other_gated.gate_predictor.state_dict()[key], value), key
    load_weights(torch.nn.ModuleDict({"stack": other_gated}), str(files["gated"]))
    for key, value in gated.state_dict().items():
        assert torch.equal(other_gated.state_dict()[key], value), key
    load_weights(torch.nn.ModuleDict({"stack": other_dense}), str(files["gated"]))
    for key, value in dense.state_dict().items():
        assert torch.equal(other_dense.state_dict()[key], value), key


def test_gates_that_nobody_trained_are_told_of(tmp_path, caplog):
    dense, gated = encoders()
    for name, module in (("dense", dense), ("gated", gated)):
        torch.save(torch.nn.ModuleDict({"stack": module}).state_dict(), tmp_path / f"{name}.pth")
    for model, checkpoint, told in ((gated, "dense", True), (gated, "gated", False), (dense, "dense", False)):
        caplog.clear()
        load_weights(torch.nn.ModuleDict({"stack": model}), str(tmp_path / f"{checkpoint}.pth"))
        assert ("dense.pth: a dense checkpoint: the model's gates are untrained" in caplog.text) == told


def test_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("code of a checkpoint was run",))

    torch.save({"weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"trap\.pth: not a readable checkpoint"):
        load_weights(torch.nn.Linear(1, 1), str(tmp_path / "trap.pth"))
