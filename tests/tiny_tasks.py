"""Tiny models of every ESPnet task, built as its trainer builds them: from the words of a YAML."""

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import espnet_gated
from espnet_gated import model as models

TOKENS = ["<blank>", "<unk>", "<na>", "<deu>", "<eng>", "<asr>", "<st_eng>", "<notimestamps>", "a", "b", "c"]
TOKENS += ["<0.00>", "<30.00>", "<sop>", "<sos>", "<eos>"]
SOURCE = ["<blank>", "<unk>", "x", "y", "<sos/eos>"]
INPUT, SIZE, ROWS = 10, 8, 3
GATING = {"hidden_units": 4, "nominal_length": 10, "nominal_memory": 10}
SHAPE = {"output_size": SIZE, "attention_heads": 2, "num_blocks": 2, "input_layer": "linear", "gating": GATING}
BRANCH = {"cgmlp_linear_units": 12, "cgmlp_conv_kernel": 3}
ENCODER_CONF: dict[str, dict[str, Any]] = {
    "gated_branchformer": SHAPE | BRANCH,
    "gated_conformer": SHAPE | {"linear_units": 12, "cnn_module_kernel": 3},
    "gated_e_branchformer": SHAPE | BRANCH | {"linear_units": 12, "use_ffn": True, "merge_conv_kernel": 3},
    "gated_multiconv_conformer": SHAPE | {"linear_units": 12, "cgmlp_linear_units": 8, "multicgmlp_kernel_sizes": "3"},
    "gated_transformer": SHAPE | {"linear_units": 12},
}
DECODER_CONF = {"attention_heads": 2, "linear_units": 12, "num_blocks": 2, "gating": GATING}
TASKS = {
    "s2t": ("S2TTask", models.GatedESPnetS2TModel),
    "asr": ("ASRTask", models.GatedESPnetASRModel),
    "st": ("STTask", models.GatedESPnetSTModel),
    "mt": ("MTTask", models.GatedESPnetMTModel),
}


def task_class(task: str) -> Any:
    """The task with its gated names."""
    module = f"espnet2.tasks.{task}"
    espnet_gated.register(module)
    return getattr(__import__(module, fromlist=["x"]), TASKS[task][0])


def options_of(task: str, **changes: Any) -> dict[str, Any]:
    """Options of a tiny model, as in a YAML; ``model_conf`` is added to, others are replaced."""
    options: dict[str, Any] = {
        "token_list": list(TOKENS),
        "input_size": INPUT,
        "encoder": "gated_transformer",
        "decoder": "gated_transformer",
        "decoder_conf": DECODER_CONF,
        "model_conf": {"report_cer": False, "report_wer": False},
        "ctc_conf": {},
        "specaug": None,
        "normalize": None,
        "init": None,
    }
    if task in ("st", "mt"):
        options |= {"src_token_list": list(SOURCE), "model_conf": {"report_bleu": False}}
    if task == "mt":
        options |= {"input_size": None, "frontend": "embed", "frontend_conf": {"embed_dim": INPUT}}
    for name, value in changes.items():
        options[name] = {**options[name], **value} if name == "model_conf" else value
    options.setdefault("encoder_conf", ENCODER_CONF.get(options["encoder"]))
    return options


def build(task: str, **changes: Any) -> Any:
    """A tiny model, in float64."""
    torch.manual_seed(0)
    return task_class(task).build_model(argparse.Namespace(**options_of(task, **changes))).double()


def save(task: str, folder: Path, weights: dict[str, Tensor] | None = None, **changes: Any) -> tuple[str, str, Any]:
    """Write ``config.yaml`` and ``model.pth`` as a training leaves them.

    Returns:
        their paths, and the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = task_class(task).get_default_config() | options_of(task, **changes)
    model = build(task, **changes).float()
    for parameter in model.parameters():  # scores that differ from token to token
        parameter.data += 0.3 * torch.randn_like(parameter)
    if weights is not None:
        model.load_state_dict(weights, strict=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    torch.save(model.state_dict(), folder / "model.pth")
    return str(folder / "config.yaml"), str(folder / "model.pth"), model


def batch(task: str) -> dict[str, Tensor]:
    """A training batch as ESPnet's data loader gives it."""
    torch.manual_seed(1)
    found = {
        "text": torch.tensor([[3, 5, 7, 8, 9], [4, 6, 7, 10, -1], [3, 6, 7, 8, -1]]),
        "text_lengths": torch.tensor([5, 4, 4]),
    }
    if task != "mt":
        found["speech"] = torch.randn(ROWS, 17, INPUT, dtype=torch.double)
        found["speech_lengths"] = torch.tensor([17, 14, 15])
    if task in ("st", "mt"):
        found["src_text"] = torch.tensor([[2, 3, 2], [3, 2, -1], [2, 2, -1]])
        found["src_text_lengths"] = torch.tensor([3, 2, 2])
    if task == "s2t":
        for name in ("text_prev", "text_ctc"):
            found[name] = torch.tensor([[8, 9], [9, 10], [9, 8]])
            found[f"{name}_lengths"] = torch.tensor([2, 2, 2])
    return found


def labels(*names: str) -> Tensor:
    """Labels as the data type ``category`` gives them."""
    codes = [torch.tensor(list(name.encode()) or [-1]) for name in names]
    return torch.nn.utils.rnn.pad_sequence(codes, batch_first=True, padding_value=-1)


DENSE = {
    "encoder": "transformer",
    "encoder_conf": {k: v for k, v in ENCODER_CONF["gated_transformer"].items() if k != "gating"},
    "decoder": "transformer",
    "decoder_conf": {k: v for k, v in DECODER_CONF.items() if k != "gating"},
}
