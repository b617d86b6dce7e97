"""One thread, and one reproducible draw of examples; ``--hypothesis-profile=search`` looks for new ones.

ESPnet's type checks, two thirds of every start, are on here; of the processes that tests start, only the trainings of
the mini recipe have them (tests/test_recipe_smoke.py).
"""

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("law", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("search", max_examples=300, print_blob=True, **COMMON)
settings.load_profile("law")


@pytest.fixture(scope="session", autouse=True)
def _processes_without_type_checks():
    """Not at import: pytest-xdist imports this file before it starts its workers, which would have no checks either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPNET_GATED_TYPE_CHECKS", "false")
        yield


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
