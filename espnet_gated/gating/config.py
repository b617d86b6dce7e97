"""The YAML option ``gating`` of an encoder or decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

SAMPLERS = ("gumbel", "budget")
UNITS = ("flops", "modules")
BUDGETS = ("exact", "learned")
CONDITIONS = ("features", "context", "sparsity")
LEVELS = {"encoder": ("utterance", "layer"), "decoder": ("utterance", "token")}
"""What a gate may be decided for, by the kind of stack."""


@dataclass(frozen=True)
class GatingConfig:
    """How one stack (encoder or decoder) is gated.

    Attributes:
        modules: attribute names that may close; ``None``: all the family has.
        level: ``utterance``: one look decides all gates of an utterance; ``layer`` (encoders): each layer's gates look
            at that layer's input; ``token`` (decoders): each layer's gates look at its input at every token.
        hierarchy: a layer gate above the module gates of each layer closes them all.
        target_sparsity: share to skip in training; a range ``(low, high)`` draws one for each utterance.
        dense_prob: share of the utterances that train with everything open when a range is drawn.
        anchors: targets that deserve more training than others in the range, because results are reported at them.
        anchor_prob: share of the utterances (of those that are not dense) that train at one of ``anchors``.
        sparsity_unit: what a share counts: ``flops`` or ``modules``.
        sampler: ``gumbel`` (straight-through Gumbel-Softmax) or ``budget`` (perturb and keep the best within the
            budget).
        temperature: start and end, annealed exponentially.
        noise: scale of the budget sampler's noise, start and end, annealed linearly.
        anneal_steps: training batches until temperature and noise are at their end (with ``accum_grad`` a step of the
            optimizer takes several).
        warmup_steps: training batches over which the target rises from 0.
        prior: scale of the logits that fine-tuning starts from: layers far from each other stay, those between them go
            first (:func:`espnet_gated.gating.heads.spread_layers`); 0: all layers start alike.
        module_prior: what the logits of modules of a name start with beside that, e.g. ``{cgmlp: 0.5}``.
        gate_speed: how fast logits move for a step of the optimizer; below 1, weights adapt to the masks before the
            gates judge which modules these weights need.
        freeze_steps: training batches after which masks are final: decided as at inference, without a gradient to the
            predictor, so closed modules cost nothing in training either; 0: never. The features that the predictor
            looks at go on changing with the weights: what hangs on them still moves. Contexts go on being dropped at
            random (``context_dropout``): weights learn the masks of utterances whose context is unknown, too.
        hidden_units: width of the predictor.
        condition_on: what the predictor may see: any of ``features``, ``context``, ``sparsity`` (ablations drop some).
        inference_sparsity: share to skip where the caller asks for none; ``None``: the target, or 0 for a range.
        inference_budget: ``exact`` or ``learned`` where the caller does not say.
        nominal_length: frames (encoder) or tokens (decoder) at which modules are weighed against each other.
        nominal_memory: encoder frames behind those tokens (decoder only).
    """

    modules: tuple[str, ...] | None = None
    level: str = "utterance"
    hierarchy: bool = False
    target_sparsity: float | tuple[float, float] = 0.5
    dense_prob: float = 0.2
    anchors: tuple[float, ...] = ()
    anchor_prob: float = 0.5
    sparsity_unit: str = "flops"
    sampler: str = "gumbel"
    temperature: tuple[float, float] = (2.0, 0.5)
    noise: tuple[float, float] = (1.0, 0.0)
    anneal_steps: int = 1000
    warmup_steps: int = 0
    prior: float = 0.0
    module_prior: Mapping[str, float] = field(default_factory=dict)
    gate_speed: float = 1.0
    freeze_steps: int = 0
    hidden_units: int = 32
    condition_on: tuple[str, ...] = CONDITIONS
    inference_sparsity: float | None = None
    inference_budget: str = "exact"
    nominal_length: int = 50
    nominal_memory: int = 50

    def __post_init__(self) -> None:
        low, high = self.target_range
        for value in (low, high):
            check_sparsity(value, "gating.target_sparsity")
        if low > high:
            raise ValueError(f"gating.target_sparsity must rise, got {self.target_sparsity}")
        if self.inference_sparsity is not None:
            check_sparsity(self.inference_sparsity, "gating.inference_sparsity")
        _one_of("sparsity_unit", self.sparsity_unit, UNITS)
        _one_of("sampler", self.sampler, SAMPLERS)
        _one_of("inference_budget", self.inference_budget, BUDGETS)
        _one_of("level", self.level, ("utterance", "layer", "token"))
        if self.level != "utterance" and self.sampler == "budget":
            raise ValueError(
                "gating.sampler: budget ranks all modules of an utterance at once, which gating.level: "
                f"{self.level} never sees together; use sampler: gumbel"
            )
        if self.hierarchy and self.modules is not None:
            raise ValueError(
                f"gating.hierarchy closes whole layers, gating.modules leaves all but {', '.join(self.modules)} open; "
                "drop one of them"
            )
        for name in self.condition_on:
            _one_of("condition_on", name, CONDITIONS)
        if min(self.temperature) <= 0:
            raise ValueError(f"gating.temperature must be > 0, got {self.temperature}")
        if self.gate_speed <= 0:
            raise ValueError(f"gating.gate_speed must be > 0, got {self.gate_speed}")
        for value in self.anchors:
            if not low <= value <= high:
                raise ValueError(f"gating.anchors must be within gating.target_sparsity, {low} to {high}, got {value}")
        for name in ("dense_prob", "anchor_prob"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"gating.{name} must be in [0, 1], got {getattr(self, name)}")
        if not isinstance(self.module_prior, Mapping) or not all(
            isinstance(value, int | float) for value in self.module_prior.values()
        ):
            raise ValueError(f"gating.module_prior takes {{module: number}}, got {self.module_prior!r}")
        for name in ("prior", "freeze_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"gating.{name} must be at least 0, got {getattr(self, name)}")
        if 0 < self.freeze_steps < self.warmup_steps:
            raise ValueError(
                f"gating.freeze_steps must be at least gating.warmup_steps, {self.warmup_steps}: targets would never "
                f"rise to their end, got {self.freeze_steps}"
            )
        for name in ("hidden_units", "nominal_length", "nominal_memory"):
            if getattr(self, name) < 1:
                raise ValueError(f"gating.{name} must be at least 1, got {getattr(self, name)}")

    def check_level(self, stack: str) -> None:
        """Whether the stack (``encoder``, ``decoder``) can have this level.

        Raises:
            ValueError: saying why not.
        """
        kind = "decoder" if stack.endswith("decoder") else "encoder"
        if self.level in LEVELS[kind]:
            return
        why = {
            "encoder": "an encoder's frames are computed together",
            "decoder": "a decoder's input is never there as a whole before its end",
        }[kind]
        allowed = " or ".join(LEVELS[kind])
        raise ValueError(f"gating.level must be {allowed} in the {stack}, got {self.level!r}: {why}")

    @property
    def target_range(self) -> tuple[float, float]:
        """Lowest and highest target."""
        if isinstance(self.target_sparsity, tuple):
            return self.target_sparsity
        return self.target_sparsity, self.target_sparsity

    @property
    def default_sparsity(self) -> float:
        """Sparsity at inference where none is asked."""
        if self.inference_sparsity is not None:
            return self.inference_sparsity
        low, high = self.target_range
        return low if low == high else 0.0

    @classmethod
    def from_yaml(cls, options: Mapping[str, Any] | None) -> GatingConfig:
        """Read the mapping found in YAML.

        Raises:
            ValueError: for an unknown option or a value out of range, naming it.
        """
        options = dict(options or {})
        known = {f.name for f in fields(cls)}
        for name in options:
            if name not in known:
                raise ValueError(f"unknown option gating.{name}; known are {', '.join(sorted(known))}")
        for name, value in options.items():
            several = isinstance(value, list | tuple)
            is_pair = name in ("temperature", "noise") or (name == "target_sparsity" and several)
            if is_pair and not (several and len(value) == 2):
                raise ValueError(f"gating.{name} takes two numbers, got {value}")
            is_list = name in ("anchors", "condition_on") or (name == "modules" and value is not None)
            if is_list and not several:
                raise ValueError(f"gating.{name} takes a list, got {value!r}")
            options[name] = tuple(value) if several else value
        return cls(**options)


def check_sparsity(value: float, option: str) -> float:
    """Return ``value`` if it is in [0, 1).

    Raises:
        ValueError: naming the option, the value and what is allowed.
    """
    if not 0.0 <= float(value) < 1.0:
        raise ValueError(f"sparsity must be in [0, 1), got {value} ({option})")
    return float(value)


def parse_sparsity(text: str | float | None, option: str = "--sparsity") -> tuple[float | None, float | None]:
    """Read the knob: ``0.5`` for encoder and decoder, ``0.3,0.5`` for each; ``None`` or empty leaves the model's
    default.

    Raises:
        ValueError: naming the option, the value and what is allowed.
    """
    if text is None or (isinstance(text, str) and not text.strip()):
        return None, None
    parts = str(text).split(",")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        raise ValueError(f"sparsity must be a number or ENCODER,DECODER, got {text!r} ({option})")
    checked = [check_sparsity(v, option) for v in values]
    return checked[0], checked[-1]


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"gating.{name} must be one of {', '.join(allowed)}, got {value!r}")
