"""One thread, and one reproducible draw of examples; ``--hypothesis-profile=search`` looks for new ones.

ESPnet's type checks are on in the tests' own process, which builds the models of all recipes; the many processes that
tests start leave them out, as they are two thirds of every start.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

import espnet_gated  # noqa: F401 - before the variable is set, which is read once

os.environ.setdefault("ESPNET_GATED_TYPE_CHECKS", "false")
torch.set_num_threads(1)

COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("law", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("search", max_examples=300, print_blob=True, **COMMON)
settings.load_profile("law")


@pytest.fixture(scope="session")
def gated_checkpoint(tmp_path_factory):
    """A tiny gated S2T model on disk."""
    from tiny_checkpoint import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("gated"), gated=True)


@pytest.fixture(scope="session")
def dense_checkpoint(tmp_path_factory):
    """The same weights in ESPnet's own classes."""
    from tiny_checkpoint import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("dense"), gated=False)
