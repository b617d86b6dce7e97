"""What ESPnet's tasks learn: to build gated models, fast on a CPU, and to let contexts through with the data.

A YAML that names a gated encoder or decoder needs no further word.

ESPnet's ST task has no option for the model's class at all, and in the others ``model: gated`` would be easily
forgotten. So a model with gated parts gets its gated class after it was built, and the options that only gated models
know (``sparsity_weight``, ``context``, …) are kept from ESPnet's constructor.
"""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from espnet2.tasks import abs_task
from espnet2.tasks.abs_task import AbsTask, optim_classes
from espnet2.train import trainer
from espnet2.train.dataset import AbsDataset
from torch import nn

from espnet_gated.data.contexts import DATA_TYPES
from espnet_gated.gating.config import CONDITIONS
from espnet_gated.gating.predictor import GatePredictor
from espnet_gated.layers.convolutions import DepthwiseConv1dInTraining, lay_out_depthwise
from espnet_gated.model import MODELS, GatedModelMixin, gating_options


def build_gated_models(module: ModuleType) -> None:
    """Wrap ``build_model`` of the tasks defined in an ESPnet task module (once)."""
    for task in vars(module).values():
        if isinstance(task, type) and issubclass(task, AbsTask) and task.__module__ == module.__name__:
            original = vars(task).get("build_model")
            if original is not None and not hasattr(original.__func__, "builds_gated"):
                setattr(task, "build_model", classmethod(_gated(original.__func__)))  # noqa: B010


def _gated(original: Any) -> Any:
    @functools.wraps(original)
    def build_model(cls: Any, args: argparse.Namespace) -> Any:
        model = build(cls, args)
        lay_out_depthwise(model, DepthwiseConv1dInTraining)
        return model

    def build(cls: Any, args: argparse.Namespace) -> Any:
        given = args.model_conf
        if getattr(args, "model", None) == "gated" or given is None:
            return original(cls, args)
        ours = set(gating_options())
        args.model_conf = {name: value for name, value in given.items() if name not in ours}
        try:
            model = original(cls, args)
        finally:
            args.model_conf = given  # ESPnet writes it to config.yaml
        return gate_model(model, {name: value for name, value in given.items() if name in ours})

    build_model.builds_gated = True  # type: ignore[attr-defined]
    return build_model


def leaves_parameters_out(model: nn.Module) -> bool:
    """Whether a batch may leave parameters without a gradient, which data-parallel training must be told."""
    for predictor in _predictors(model):
        if predictor.config.freeze_steps > 0 or set(CONDITIONS) - set(predictor.config.condition_on):
            return True
        if any(field.kind == "vector" for field in predictor.context.fields):  # which the data need not have
            return True
    return getattr(model, "targets_per", "utterance") == "batch"


def start_anew(model: nn.Module) -> None:
    """Let the gates of a model that was trained begin another training: no update so far, no thresholds.

    For models that ESPnet-EZ is handed ready-built; ``--init_param`` does the same.
    """
    for predictor in _predictors(model):
        predictor.num_updates.zero_()
        predictor.thresholds.zero_()


def gate_model(model: nn.Module, options: dict[str, Any]) -> nn.Module:
    """Give a model with gated parts its gated class, in place; leave any other model alone.

    Args:
        model: ESPnet model.
        options: of :meth:`espnet_gated.model.GatedModelMixin.init_gating`.

    Raises:
        ValueError: for options that the model cannot have, as no part of it is gated; or for gated parts in a model
            whose class has no gated twin: nothing would teach their gates.
    """
    gated_parts = any(hasattr(part, "gate_predictor") for part in model.children())
    twin = MODELS.get(type(model))
    if gated_parts and twin is None and not isinstance(model, GatedModelMixin):
        raise ValueError(
            f"a {type(model).__name__} cannot have a gated encoder or decoder: nothing would teach its gates; "
            f"models that can are {', '.join(known.__name__ for known in MODELS)}"
        )
    if gated_parts and twin is not None:
        model.__class__ = twin
        assert isinstance(model, GatedModelMixin)
        model.init_gating(**options)
    elif options:
        why = "has no gated encoder or decoder" if twin is not None else f"is a {type(model).__name__}"
        raise ValueError(f"model_conf.{min(options)} is for gated models; this one {why}")
    return model


def start_gates_anew() -> None:
    """Let what a training loads with ``--init_param`` be a start, not the middle of another training (once).

    A gated checkpoint holds how many updates its gates have had, and thresholds for its weights. Taken over, masks
    would be final from the first batch (``freeze_steps``). Where ``--init_param`` names the predictor itself
    (``FILE:encoder.gate_predictor:encoder.gate_predictor``) they are wanted so, and kept.
    """
    original: Any = abs_task.load_pretrained_model
    if hasattr(original, "starts_gates_anew"):
        return

    @functools.wraps(original)
    def load_pretrained_model(init_param: str, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        predictors = [] if "gate_predictor" in ":".join(init_param.split(":")[1:3]) else _predictors(model)
        before = [(p.num_updates.clone(), p.thresholds.clone()) for p in predictors]
        original(init_param, model, *args, **kwargs)
        for predictor, (updates, thresholds) in zip(predictors, before, strict=True):
            if not torch.equal(predictor.num_updates, updates):
                logging.info(f"Gates of the {predictor.stack} start from {init_param}, with update {int(updates)}")
            predictor.num_updates.copy_(updates)
            predictor.thresholds.copy_(thresholds)

    load_pretrained_model.starts_gates_anew = True  # type: ignore[attr-defined]
    abs_task.load_pretrained_model = load_pretrained_model


def _predictors(model: nn.Module) -> list[GatePredictor]:
    return [module for module in model.modules() if isinstance(module, GatePredictor)]


class _Worker:
    """``main_worker``, which a spawned process finds in this package: so the gated names are known there, too.

    With several GPUs ESPnet starts a process for each, and pickles what it shall run.
    """

    def __init__(self, original: Any):
        self.original = original

    def __get__(self, instance: Any, owner: type) -> functools.partial[None]:
        return functools.partial(run_worker, owner)


def run_worker(task: Any, args: argparse.Namespace) -> None:
    """Train, in this process or in one that ESPnet started.

    Args:
        task: ESPnet task.
        args: its options.
    """
    worker: Any = vars(AbsTask)["main_worker"]
    getattr(worker, "original", worker).__func__(task, args)


def let_workers_know() -> None:
    """Let the processes of a multi-GPU training know the gated names (once)."""
    worker = vars(AbsTask)["main_worker"]
    if not isinstance(worker, _Worker):
        setattr(AbsTask, "main_worker", _Worker(worker))  # noqa: B010


def plot_open_attention() -> None:
    """Let the attention that ESPnet plots after an epoch be that of the whole model (once).

    Its plots want the weights of every utterance, and a closed attention has none.
    """
    original: Any = trainer.calculate_all_attentions
    if hasattr(original, "opens_gates"):
        return

    @functools.wraps(original)
    def calculate_all_attentions(model: nn.Module, batch: Any) -> Any:
        policies = [(p, p.policy) for p in _predictors(model)]
        try:
            for predictor, _ in policies:
                predictor.set_policy(budget="open")
            return original(model, batch)
        finally:
            for predictor, policy in policies:
                predictor.policy = policy

    calculate_all_attentions.opens_gates = True  # type: ignore[attr-defined]
    trainer.calculate_all_attentions = calculate_all_attentions


def let_contexts_through() -> None:
    """Let data of the types ``category`` and ``vector`` pass ESPnet's check of data names (once)."""
    original: Any = AbsTask.check_task_requirements
    if hasattr(original, "lets_contexts_through"):
        return

    @functools.wraps(original.__func__)
    def check_task_requirements(cls: Any, dataset: Any, *args: Any, **kwargs: Any) -> None:
        original.__func__(cls, _WithoutContexts(dataset), *args, **kwargs)

    check_task_requirements.lets_contexts_through = True  # type: ignore[attr-defined]
    setattr(AbsTask, "check_task_requirements", classmethod(check_task_requirements))  # noqa: B010


class _WithoutContexts(AbsDataset):
    """A dataset as the check shall see it: without the names of its contexts."""

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self.types = {name: kind for name, (_, kind) in getattr(dataset, "debug_info", {}).items()}

    def has_name(self, name: str) -> bool:
        return self.dataset.has_name(name)

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.dataset.names() if self.types.get(name) not in DATA_TYPES)

    def __getitem__(self, uid: Any) -> Any:
        return self.dataset[uid]


def tell_of_unused_parameters() -> None:
    """Let data-parallel training look for parameters without a gradient where gates leave some (once)."""
    original = vars(AbsTask)["build_optimizers"]
    if hasattr(original.__func__, "tells_of_unused_parameters"):
        return

    @functools.wraps(original.__func__)
    def build_optimizers(cls: Any, args: argparse.Namespace, model: nn.Module) -> Any:
        # Here every model comes by, also those that ESPnet-EZ is handed; the trainer's options are made later.
        if leaves_parameters_out(model) and not getattr(args, "unused_parameters", False):
            logging.info("unused_parameters: true, as gates leave parameters of this model without a gradient")
            args.unused_parameters = True
        return original.__func__(cls, args, model)

    build_optimizers.tells_of_unused_parameters = True  # type: ignore[attr-defined]
    setattr(AbsTask, "build_optimizers", classmethod(build_optimizers))  # noqa: B010


def add_optimizers(classes: Mapping[str, type[torch.optim.Optimizer]]) -> None:
    """Make optimizers choosable that want to know the names of the parameters, which ESPnet does not tell.

    Args:
        classes: YAML name → class whose first argument is ``model.named_parameters()``.
    """
    optim_classes.update(classes)
    original = vars(AbsTask)["build_optimizers"]
    if hasattr(original.__func__, "knows_names"):
        return

    @functools.wraps(original.__func__)
    def build_optimizers(cls: Any, args: argparse.Namespace, model: nn.Module) -> Any:
        if args.optim in classes:
            if getattr(args, "exclude_weight_decay", False):
                raise ValueError(
                    f"exclude_weight_decay: true is not known to optim: {args.optim}; leave it out, or choose another"
                )
            return [classes[args.optim](model.named_parameters(), **args.optim_conf)]
        return original.__func__(cls, args, model)

    build_optimizers.knows_names = True  # type: ignore[attr-defined]
    setattr(AbsTask, "build_optimizers", classmethod(build_optimizers))  # noqa: B010
