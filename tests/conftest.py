"""One thread, and one reproducible draw of examples; ``--hypothesis-profile=search`` looks for new ones.

ESPnet's type checks, two thirds of every start, are left out here and in the processes that tests start. The mini
recipe has them in its trainings, as for a user (tests/test_recipe_smoke.py).
"""

import os

os.environ.setdefault("ESPNET_GATED_TYPE_CHECKS", "false")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

import espnet_gated  # noqa: E402, F401 - before anything imports ESPnet

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
