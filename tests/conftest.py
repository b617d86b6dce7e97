"""One thread, and one reproducible draw of examples; ``--hypothesis-profile=search`` looks for new ones."""

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("law", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("search", max_examples=300, print_blob=True, **COMMON)
settings.load_profile("law")
