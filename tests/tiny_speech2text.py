"""``Speech2Text`` of tiny checkpoints in double precision, and what two of its results have in common."""

import pytest

from espnet_gated import Speech2Text

F64 = {"dtype": "float64", "beam_size": 3, "lang_sym": "<deu>"}


def load(checkpoint, cls=Speech2Text, **options):
    return cls(str(checkpoint.config), str(checkpoint.weights), **F64 | options)


def assert_same_results(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a[:4] == b[:4]
        assert a[4].yseq.tolist() == b[4].yseq.tolist()
        assert float(a[4].score) == pytest.approx(float(b[4].score), abs=1e-8)
