"""Gates as values: open, closed, open for some rows, soft."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_gated.gating.gates import CLOSED, OPEN, ModuleGate, all_open, from_values, hard_gate

NAMES = [(0, "attn"), (0, "cgmlp"), (1, "attn")]
COSTS = torch.tensor([0.2, 0.3, 0.5])
bits = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4)


def kind(gate):
    return "open" if gate.is_open else "closed" if gate.closed else "rows"


@given(bits)
def test_a_hard_gate_knows_its_rows(values):
    gate = hard_gate(torch.tensor(values))
    assert kind(gate) == ("open" if all(values) else "closed" if not any(values) else "rows")
    if kind(gate) == "rows":
        assert gate.rows.tolist() == list(gate.host_rows) == [i for i, v in enumerate(values) if v]
    assert kind(hard_gate(torch.tensor(values), host=values)) == kind(gate)


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=4))
def test_either_is_or(rows):
    a, b = (torch.tensor(column) for column in zip(*rows, strict=True))
    expected = torch.maximum(a, b)
    either = hard_gate(a).either(hard_gate(b))
    assert kind(either) == kind(hard_gate(expected))
    if kind(either) == "rows":
        assert either.rows.tolist() == list(either.host_rows) == hard_gate(expected).rows.tolist()
    for soft in (
        ModuleGate(a, soft=True).either(ModuleGate(b, soft=True)),
        ModuleGate(a, soft=True).either(hard_gate(b)),
        hard_gate(a).either(ModuleGate(b, soft=True)),
    ):
        if soft.is_open:
            assert expected.all()
        else:
            assert soft.soft
            torch.testing.assert_close(soft.value, expected)


def test_either_of_constants():
    rows = hard_gate(torch.tensor([1.0, 0.0]))
    assert OPEN.either(CLOSED).is_open and CLOSED.either(OPEN).is_open and CLOSED.either(CLOSED).closed
    assert CLOSED.either(rows) is rows and rows.either(CLOSED) is rows and rows.either(OPEN).is_open


def test_gates_per_token_are_multiplied():
    """A row cannot be skipped where its tokens disagree."""
    assert hard_gate(torch.zeros(2, 3)).closed
    gate = hard_gate(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert gate.soft and gate.value.shape == (2, 2)


def test_a_gate_that_most_rows_need_is_multiplied_where_picking_rows_does_not_pay():
    values = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    gates = replace(from_values(values, NAMES, COSTS, soft=False), multiply_from=0.5)
    most, none, one = (gates._module(column) for column in range(3))
    assert most.soft and most.value.tolist() == [1.0, 1.0, 0.0, 1.0]
    assert none.closed
    assert kind(one) == "rows" and one.rows.tolist() == [0]
    assert kind(from_values(values, NAMES, COSTS, soft=False)._module(0)) == "rows"
    assert gates.select([0, 2])._module(0).soft
    assert gates.select([0, 1])._module(0).is_open


def test_layers_see_their_own_gates():
    gates = from_values(torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), NAMES, COSTS, soft=False)
    first, second = gates.layer(0), gates.layer(1)
    assert set(first) == {"attn", "cgmlp"} and first["attn"].is_open and first["cgmlp"].closed
    assert second["attn"].rows.tolist() == [0]
    assert gates.layer(2) == {}
    torch.testing.assert_close(gates.skipped(), torch.tensor([0.3, 0.8]))


def test_the_gates_of_other_rows():
    gates = from_values(torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), NAMES, COSTS, soft=False)
    picked = gates.select([1, 1, 0])
    assert picked.host == picked.values.tolist() == [[0, 0, 1], [0, 0, 1], [1, 0, 1]]


def test_all_open_skips_nothing():
    gates = all_open(3, NAMES, COSTS, torch.zeros(3, 1))
    assert gates.skipped().tolist() == pytest.approx([0.0] * 3, abs=1e-6)
    assert all(gate.is_open for gate in gates.layer(0).values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gates_have_exact_shares(dtype):
    values = torch.tensor([[1.0] * 7 + [0.0] * 3, [1.0] * 3 + [0.0] * 7], dtype=dtype)
    gates = from_values(values, [(layer, "attn") for layer in range(10)], torch.full((10,), 0.1), soft=True)
    gates = replace(gates, soft_open=values)
    assert gates.skipped().tolist() == pytest.approx([0.3, 0.7], abs=1e-6)
    assert gates.expected_skipped().tolist() == pytest.approx([0.3, 0.7], abs=1e-6)


def test_the_skipped_share_has_a_gradient():
    values = torch.tensor([[1.0, 0.0, 1.0]], requires_grad=True)
    from_values(values, NAMES, COSTS, soft=True).skipped().sum().backward()
    torch.testing.assert_close(values.grad[0], -COSTS)
