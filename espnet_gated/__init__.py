"""Gated ESPnet speech-to-text models: every utterance runs only the modules it needs.

Importing the package makes the gated names choosable in ESPnet's YAML (they are registered when ESPnet's task module
is imported, so this
import stays light).
"""

import os
from typing import TYPE_CHECKING, Any

from espnet_gated.registry import register, register_when_imported
from espnet_gated.type_checks import TYPE_CHECKS_VARIABLE, leave_out_type_checks

if TYPE_CHECKING:
    from espnet_gated.inference.speech2text import Speech2Text

__version__ = "0.1.0"
__all__ = ["Speech2Text", "__version__", "register"]

register_when_imported()
if os.environ.get(TYPE_CHECKS_VARIABLE) == "false":
    leave_out_type_checks()


def __getattr__(name: str) -> Any:
    if name == "Speech2Text":
        from espnet_gated.inference.speech2text import Speech2Text

        return Speech2Text
    raise AttributeError(f"module 'espnet_gated' has no attribute {name!r}")
