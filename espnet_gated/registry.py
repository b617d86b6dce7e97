"""The one table of names that users may write in ESPnet YAML."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

# ESPnet task module → attribute holding its choices → name → "module:class". Loaded when ``register`` is called.
CLASSES: dict[str, dict[str, dict[str, str]]] = {
    "espnet2.tasks.s2t": {
        "encoder_choices": {"gated_e_branchformer": "espnet_gated.encoder:GatedEBranchformerEncoder"},
        "decoder_choices": {"gated_transformer": "espnet_gated.decoder:GatedTransformerDecoder"},
        "model_choices": {"gated": "espnet_gated.model:GatedESPnetS2TModel"},
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
            choices.classes[name] = _load(path)
    importlib.import_module("espnet_gated.primer").announce_primers()


def register_when_imported() -> None:
    """Register every task in the table: at once where it is imported already, else as soon as it is."""
    if not any(isinstance(finder, LazyRegistration) for finder in sys.meta_path):
        sys.meta_path.insert(0, LazyRegistration())
    for task in CLASSES:
        if task in sys.modules:
            register(task)


def _load(path: str) -> Any:
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
