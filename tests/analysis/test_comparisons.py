"""How a paired comparison is shown."""

from pathlib import Path

import pytest

from espnet_gated.analysis.comparisons import LARGE, NLL, Comparison
from espnet_gated.analysis.experiment import Decoding
from espnet_gated.analysis.headline import difference
from espnet_gated.analysis.metrics import PairedResult


@pytest.mark.parametrize(
    ("metric", "n", "text"),
    [
        ("wer", LARGE - 1, "+0.1 [-0.0, +0.1]"),
        ("wer", LARGE, "+0.07 [-0.00, +0.15]"),
        ("bleu", LARGE, "+0.07 [-0.00, +0.15]"),
        (f"{NLL} asr", 8, "+0.073 [-0.003, +0.146]"),
    ],
)
def test_hundredths_are_shown_where_the_set_is_large(metric, n, text):
    decoding = Decoding("a", Path("."), "a", "a", (0.0, 0.0), {})
    result = PairedResult(metric, 0.1458, 0.2188, 0.0729, (-0.0034, 0.1463), 0.06, n)
    assert difference(Comparison("price of sparsity", decoding, decoding, result)) == text
