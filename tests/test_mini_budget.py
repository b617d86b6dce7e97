"""The mini recipe's model can meet a budget within 0.02 at every sparsity."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from espnet_gated.decoder import GatedTransformerDecoder
from espnet_gated.encoder import GatedEBranchformerEncoder
from espnet_gated.gating.budget import TOLERANCE, exact_budget

CONFIG = Path(__file__).resolve().parents[1] / "egs2/mini/s2t1/conf/train_s2t_gated.yaml"


@pytest.fixture(scope="module")
def costs():
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    encoder = GatedEBranchformerEncoder(input_size=40, **config["encoder_conf"])
    size = config["encoder_conf"]["output_size"]
    decoder = GatedTransformerDecoder(vocab_size=502, encoder_output_size=size, **config["decoder_conf"])
    return {"encoder": encoder.gate_predictor.costs.numpy(), "decoder": decoder.gate_predictor.costs.numpy()}


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize("sparsity", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_budgets_are_kept_and_used(costs, stack, sparsity):
    rng = np.random.default_rng(0)
    for _ in range(20):
        chosen = exact_budget(rng.normal(size=len(costs[stack])) * 2, costs[stack], sparsity)
        skipped = 1.0 - float((costs[stack] * np.array(chosen)).sum())
        assert sparsity - 1e-6 <= skipped <= sparsity + TOLERANCE + 1e-6
