"""docs/add_an_encoder.md: its example is short, its quotations are true, and one line in the registry is enough."""

import re
import sys
from pathlib import Path

import pytest
from tiny_tasks import GATING, TASKS, batch, build

from espnet_gated import registry, twin

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "add_an_encoder.md").read_text(encoding="utf-8")
EXAMPLE = (DOCS / "examples" / "gated_conv.py").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_one_file_of_under_120_lines() -> None:
    lines = EXAMPLE.count("\n")
    assert lines < 120
    assert f"{lines} lines" in PAGE


def test_the_page_quotes_the_file() -> None:
    assert len(BLOCKS) == 3
    assert all(block in EXAMPLE for block in BLOCKS[:2])


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> str:
    """The registry with the page's line."""
    ((name, path),) = re.findall(r'"(\w+)": "([\w:]+)"', BLOCKS[2])
    monkeypatch.setitem(registry.ENCODERS, name, path)
    monkeypatch.syspath_prepend(DOCS / "examples")
    twin.twins.cache_clear()
    yield name
    twin.twins.cache_clear()
    sys.modules.pop("gated_conv")


@pytest.mark.parametrize("task", [t for t in TASKS if t != "mt"])
def test_one_line_in_the_registry(registered: str, task: str) -> None:
    conf = {"output_size": 8, "linear_units": 12, "num_blocks": 2, "kernel": 3, "gating": GATING}
    model = build(task, encoder=registered, encoder_conf=conf)
    assert type(model) is TASKS[task][1]
    loss, stats, _ = model(**batch(task))
    loss.backward()
    assert "sparsity_encoder" in stats
    assert model.encoder.gate_predictor.output.weight.grad.abs().sum() > 0
    assert type(model.encoder) in twin.twins().values()
