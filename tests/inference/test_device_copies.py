"""What the host asks an accelerator for: the logits of a stack's gates once, and nothing while the layers obey.

An accelerator is not needed: tensors without data refuse to be read, and a subclass of ``Tensor`` that spreads to
everything computed from it notes each time that the host reads one.
"""

import warnings
from typing import Any, ClassVar

import pytest
import torch
from tiny import EOS, SIZE, SOS, VOCAB, ctc, decoders, encoders, features
from torch import Tensor

from espnet_gated.gating.gates import Gates, hard_gate
from espnet_gated.inference.cache import DecoderCache, RowPlans
from espnet_gated.inference.ctc import PrimedCTCPrefixScorer, rescoring
from espnet_gated.inference.search import CachedBeamSearch
from espnet_gated.layers.skipping import run_gated

ROWS = [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]  # gates of four utterances


class OnDevice(Tensor):
    """Stands for a tensor on an accelerator."""

    reads: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note what waits for the device: values, and shapes that depend on values."""
        masked = func is Tensor.__getitem__ and torch.is_tensor(args[1]) and args[1].dtype == torch.bool
        if func in READS or masked:
            cls.reads.append(func.__name__)
            with torch._C.DisableTorchFunctionSubclass():
                found = func(*args, **(kwargs or {}))
            return found.as_subclass(Tensor) if func is Tensor.cpu else found
        return super().__torch_function__(func, types, args, kwargs)


READS = {
    *(Tensor.tolist, Tensor.item, Tensor.cpu, Tensor.numpy, Tensor.__bool__, Tensor.__int__, Tensor.__float__),
    *(Tensor.__index__, Tensor.__contains__, Tensor.equal, torch.equal, Tensor.nonzero, torch.nonzero),
    *(Tensor.masked_select, torch.masked_select, Tensor.unique, torch.unique),
}


@pytest.fixture(autouse=True)
def nothing_read_yet() -> None:
    OnDevice.reads.clear()


def on_device(*tensors: Tensor) -> list[Tensor]:
    return [t.as_subclass(OnDevice) for t in tensors]


def reads() -> list[str]:
    """What was read since the last call."""
    found = list(OnDevice.reads)
    OnDevice.reads.clear()
    return found


def test_reads_are_noted() -> None:
    (x,) = on_device(torch.tensor([1.0, 2.0]))
    (x + 1).sum().item(), bool((x * x).any()), torch.cat([x, torch.ones(1)]).cpu(), x[x > 1.0], (x, x[0])[1].tolist()
    assert reads() == ["item", "__bool__", "cpu", "__getitem__", "tolist"]


def test_gates_that_the_host_knows_are_never_read() -> None:
    """Their values have no data here, so that reading them would fail."""
    values = torch.empty(len(ROWS), 3, device="meta")
    with pytest.raises((NotImplementedError, RuntimeError)):
        hard_gate(values[:, 0])
    names = [(0, "attn"), (0, "cgmlp"), (1, "src_attn")]
    gates = Gates(values, names, torch.ones(3) / 3, values, soft=False, host=ROWS)
    attn, cgmlp = gates.layer(0).values()
    assert attn.host_rows == (0, 2) and cgmlp.host_rows == (1, 2)
    assert attn.either(cgmlp).host_rows == (0, 1, 2)
    assert run_gated(attn, lambda x: x, values[:, None]).shape == (4, 1, 3)
    chosen = gates.select([3, 0, 0])
    assert chosen.host == [ROWS[3], ROWS[0], ROWS[0]] and chosen.values.is_meta
    assert RowPlans(gates, (0, 0, 1, 3), 4).layer(1).counts == (2,)


@torch.no_grad()
def test_an_encoder_reads_its_lengths_and_its_gates_once() -> None:
    encoder = encoders({"target_sparsity": 0.5})[1]
    encoder(*on_device(*features(20, 20, 20, 14)))
    rows = {gate.host_rows for layer in range(2) for gate in encoder.gate_predictor.last.layer(layer).values()}
    assert len(rows - {None}) > 1  # the gates differ by row
    assert reads() == ["cpu", "cpu"]


@torch.no_grad()
def test_a_decoder_reads_its_gates_once_and_nothing_at_its_steps() -> None:
    decoder = decoders({"target_sparsity": 0.5})[1]
    memory, lengths = features(11, 9, 11, seed=5, size=SIZE)
    mask = (torch.arange(11)[None] < lengths[:, None])[:, None]
    ys = torch.full((3, 1), SOS)
    memory, mask, ys = on_device(3.0 * memory, mask, ys)
    cache: DecoderCache = decoder.start(memory, mask, ys)
    assert len({tuple(row) for row in cache.gates.host}) > 1
    assert reads() == ["cpu"]
    _, _, cache = decoder.step(ys, cache)
    cache, ys = cache.select([0, 0, 1, 1, 2, 2]), ys.repeat_interleave(2, 0, output_size=6)
    for token in range(VOCAB)[:3]:
        ys = torch.cat([ys, torch.full((6, 1), token)], dim=1)
        _, _, cache = decoder.step(ys, cache)
        cache = cache.select([1, 0, 2, 3, 5, 4])
    cache = cache.drop_utterances([0, 2])
    decoder.step(torch.cat([ys[[0, 1, 4, 5]], ys[:4, :1]], dim=1), cache)
    assert reads() == []


class CountedSteps(CachedBeamSearch):
    steps = 0

    def _step(self, *args: Any) -> Any:
        self.steps += 1
        return super()._step(*args)


def search_with(decoder: Any, ctc_weight: float) -> CountedSteps:
    """A search that goes on for the whole n-best list, whose hypotheses end at every step."""
    decoder.output_layer.bias.data[EOS] += 3.0
    search = CountedSteps(
        scorers={"decoder": decoder, "ctc": PrimedCTCPrefixScorer(ctc(), EOS)},
        weights={"decoder": 1.0, "ctc": ctc_weight},
        beam_size=4,
        vocab_size=VOCAB,
        sos=SOS,
        eos=EOS,
        pre_beam_score_key="full",
    )
    search.exact_nbest = True
    return rescoring(search) if ctc_weight else search


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
@torch.no_grad()
def test_a_search_reads_scores_once_a_step_however_many_hypotheses_have_ended(ctc_weight: float) -> None:
    """ESPnet's end detection compares all of them in every step; CTC reads the words of each once, to rescore it."""
    search = search_with(decoders({"target_sparsity": 0.5})[1], ctc_weight)
    (memory,) = on_device(features(12, seed=1, size=SIZE)[0][0])
    ended = len(search(memory))
    found = reads()
    assert ended > 10 and search.steps > 5
    assert found.count("cpu") == 1  # the gates
    most = search.steps if not ctc_weight else 2 * search.steps + ended
    assert set(found) == {"cpu", "tolist"} and search.steps <= len(found) - 1 <= most


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_a_gpu_is_waited_for_once() -> None:
    predictor = encoders({"target_sparsity": 0.5})[1].gate_predictor.cuda()
    pooled = torch.randn(4, SIZE, dtype=torch.double, device="cuda")
    predictor(pooled)  # allocates
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            gates = predictor(pooled).select([0, 0, 1, 2, 3])
            for layer in range(2):
                attn, cgmlp = (gates.layer(layer)[name] for name in ("attn", "cgmlp"))
                run_gated(attn.either(cgmlp), lambda x: x, pooled[0].expand(5, 1, -1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum("called a synchronizing" in str(warning.message) for warning in seen) <= 1
