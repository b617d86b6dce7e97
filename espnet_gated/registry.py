"""The one table of names that users may write in ESPnet YAML."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

# name → "module:class". A new family is one line here.
ENCODERS = {
    "gated_branchformer": "espnet_gated.encoder:GatedBranchformerEncoder",
    "gated_conformer": "espnet_gated.encoder:GatedConformerEncoder",
    "gated_e_branchformer": "espnet_gated.encoder:GatedEBranchformerEncoder",
    "gated_multiconv_conformer": "espnet_gated.encoder:GatedMultiConvConformerEncoder",
    "gated_transformer": "espnet_gated.encoder:GatedTransformerEncoder",
}
DECODERS = {"gated_transformer": "espnet_gated.decoder:GatedTransformerDecoder"}
OPTIMIZERS = {"muon": "espnet_gated.optim:MuonAdam"}  # any task below, any model

# ESPnet task module → attribute holding its choices → names. Loaded when ``register`` is called.
CLASSES: dict[str, dict[str, dict[str, str]]] = {
    "espnet2.tasks.s2t": {
        "encoder_choices": ENCODERS,
        "decoder_choices": DECODERS,
        "model_choices": {"gated": "espnet_gated.model:GatedESPnetS2TModel"},
    },
    "espnet2.tasks.asr": {
        "encoder_choices": ENCODERS,
        "decoder_choices": DECODERS,
        "model_choices": {"gated": "espnet_gated.model:GatedESPnetASRModel"},
    },
    "espnet2.tasks.st": {  # has no choice of models
        "encoder_choices": ENCODERS,
        "hier_encoder_choices": ENCODERS,
        "md_encoder_choices": ENCODERS,
        "decoder_choices": DECODERS,
        "extra_asr_decoder_choices": DECODERS,
        "extra_mt_decoder_choices": DECODERS,
    },
    "espnet2.tasks.mt": {
        "encoder_choices": ENCODERS,
        "decoder_choices": DECODERS,
        "model_choices": {"gated": "espnet_gated.model:GatedESPnetMTModel"},
    },
}


def register(task: str = "espnet2.tasks.s2t") -> None:
    """Make the gated classes choosable by name in an ESPnet task. Calling it again changes nothing.

    Args:
        task: module of the ESPnet task, a key of :data:`CLASSES`.

    Raises:
        ValueError: for a task that has no gated classes.
    """
    if task not in CLASSES:
        raise ValueError(f"no gated classes for {task!r}; tasks with some are {', '.join(CLASSES)}")
    module = importlib.import_module(task)
    for attribute, table in CLASSES[task].items():
        choices = getattr(module, attribute)
        for name, path in table.items():
            choices.classes[name] = load(path)
    importlib.import_module("espnet_gated.primer").announce_primers()
    importlib.import_module("espnet_gated.data.contexts").add_data_types()
    tasks = importlib.import_module("espnet_gated.tasks")
    tasks.build_gated_models(module)
    tasks.let_contexts_through()
    tasks.start_gates_anew()
    tasks.let_workers_know()
    tasks.plot_open_attention()
    tasks.tell_of_unused_parameters()
    tasks.add_optimizers({name: load(path) for name, path in OPTIMIZERS.items()})


def register_when_imported() -> None:
    """Register every task in the table: at once where it is imported already, else as soon as it is."""
    if not any(isinstance(finder, LazyRegistration) for finder in sys.meta_path):
        sys.meta_path.insert(0, LazyRegistration())
    for task in CLASSES:
        if task in sys.modules:
            register(task)


def load(path: str) -> Any:
    """Import ``module:class``."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


class LazyRegistration:
    """Import hook: registers a task's gated classes right after ESPnet's task module has been imported.

    ``import espnet_gated`` must not cost the ten seconds that ``import espnet2.tasks.s2t`` takes.
    """

    def __init__(self) -> None:
        self._busy: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find a task module with the other finders and wrap its loader."""
        if name not in CLASSES or name in self._busy:
            return None
        self._busy.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._busy.discard(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            register(name)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
