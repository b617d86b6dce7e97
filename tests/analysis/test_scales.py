import numpy as np
import pytest
from matplotlib.figure import Figure

from espnet_gated.analysis.scales import scale_price, scale_score


@pytest.mark.parametrize(("score", "values"), [("wer", [0.0, 1.3, 53.8]), ("bleu", [100.0, 99.0, 27.9])])
def test_scores_are_spread_by_their_distance_from_the_best(score: str, values: list[float]) -> None:
    axes = Figure().subplots()
    scale_score(axes, score, values)
    y = axes.transAxes.inverted().transform(axes.transData.transform([(0, value) for value in values]))[:, 1]
    assert np.all((y > 0) & (y < 1))  # all in sight, the best too
    best, near, far = y if score == "bleu" else 1 - y
    assert best > near > far  # the better the nearer to the top of «bleu», to the bottom of «wer»
    assert abs(best - near) > 0.12  # one point from the best takes an eighth of the axis, not a fiftieth
    back = axes.yaxis.get_transform().inverted().transform(axes.yaxis.get_transform().transform(np.array(values)))
    np.testing.assert_allclose(back, values, atol=1e-9)


@pytest.mark.parametrize(
    ("score", "values"), [("wer", [60.0, 70.0]), ("bleu", [5.0, 8.0]), ("wer", []), ("other", [1.0])]
)
def test_axes_of_like_scores_stay_linear(score: str, values: list[float]) -> None:
    axes = Figure().subplots()
    scale_score(axes, score, values)
    assert axes.get_yscale() == "linear"


def test_prices_are_logarithmic_where_they_span_much() -> None:
    for values, scale in ([0.01, 0.1], "log"), ([0.01, 0.02], "linear"), ([0.0, 5.0], "linear"), ([], "linear"):
        axes = Figure().subplots()
        scale_price(axes, values)
        assert axes.get_xscale() == scale
