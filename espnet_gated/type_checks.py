"""Import ESPnet without the type checks that typeguard writes into its functions: 5 s in place of 13."""

from __future__ import annotations

from typing import Any

TYPE_CHECKS_VARIABLE = "ESPNET_GATED_TYPE_CHECKS"
"""Environment variable: ``false`` leaves ESPnet's run-time type checks out. The recipes' decodings and
measurements of budgets do: their many short processes read a configuration that training has checked."""


def leave_out_type_checks() -> None:
    """Make ``@typeguard.typechecked`` do nothing for what is imported from now on in this process."""
    import typeguard

    typeguard.typechecked = _as_it_is


def _as_it_is(target: Any = None, **_: Any) -> Any:
    """``@typechecked`` and ``@typechecked(option=…)``."""
    return _as_it_is if target is None else target
