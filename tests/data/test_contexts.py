"""Context files: labels and vectors by utterance, missing ones, and what ESPnet's data loader makes of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.dataset import ESPnetDataset

from espnet_gated.data.contexts import (
    ContextFileError,
    ForTraining,
    Labels,
    Vectors,
    add_data_types,
    read_contexts,
    write_vectors,
)
from espnet_gated.gating.context import MISSING, context_of_batch, context_of_requests, parse_fields, with_tokens

FIELDS = parse_fields({"speaker": {"vector": 2}, "device": {"category": ["phone", "Gerät"]}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text").write_text("a x\nb y\nc z\n", encoding="utf-8")
    (tmp_path / "utt2device").write_text("a Gerät\nc radio\n", encoding="utf-8")
    vectors = {"ann": np.array([1.0, 2.0]), "bob": np.array([3.0, 4.0])}
    write_vectors(tmp_path, "speaker", vectors, {"a": "bob", "b": "ann", "c": "cid"})
    return tmp_path


def test_files_are_read_and_may_lack_utterances(folder: Path) -> None:
    found = read_contexts(folder, {"speaker": "vector", "device": "category", "region": "category", "lang": "token"})
    assert dict(found["device"]) == {"a": "Gerät", "c": "radio"}
    assert {utt: v.tolist() for utt, v in found["speaker"].items()} == {"a": [3.0, 4.0], "b": [1.0, 2.0]}
    assert set(found) == {"speaker", "device"}
    assert len(found["device"]) == 2


def test_numbers_may_stand_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "utt2snr").write_text("a 12.5\nb 3 4\n", encoding="utf-8")
    vectors = Vectors(tmp_path / "utt2snr")
    assert vectors["a"].tolist() == [12.5] and vectors["b"].dtype == np.float32


def test_archive_may_stand_beside_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "utt2speaker"
    file.write_text(file.read_text().replace(f"{folder}/", ""))
    monkeypatch.chdir("/")
    assert Vectors(file)["a"].tolist() == [3.0, 4.0]


def test_espnet_loads_batches_of_them(folder: Path) -> None:
    """Unknown labels, labels that are not declared and missing vectors all end as «unknown»."""
    add_data_types()
    add_data_types()
    files = [(str(folder / f"utt2{n}"), n, kind) for n, kind in (("speaker", "vector"), ("device", "category"))]
    dataset = ESPnetDataset([(str(folder / "text"), "text", "text"), *files], preprocess=tokenise)
    _, batch = CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)([dataset[utt] for utt in "abc"])
    context = context_of_batch(FIELDS, batch)
    assert context.categories["device"].tolist() == [2, 0, 0]
    assert context.vectors["speaker"][:2].tolist() == [[3.0, 4.0], [1.0, 2.0]]
    assert context.vectors["speaker"][2].isnan().all()


def tokenise(_: str, data: dict) -> dict:
    return data | {"text": np.array([1, 2])}


def test_requests_may_lack_any() -> None:
    context = context_of_requests(
        FIELDS, [{"device": "phone"}, {}, {"device": "radio"}], [{}, {"speaker": np.ones(2)}, {}]
    )
    assert context.categories["device"].tolist() == [1, MISSING, 0]
    assert with_tokens(context, {}).categories["device"].tolist() == [1, 0, 0]
    assert torch.equal(context.vectors["speaker"].isnan().any(-1), torch.tensor([True, False, True]))
    nothing = context_of_requests(FIELDS, [{}], [{}])
    assert not nothing.categories and not nothing.vectors


@pytest.mark.parametrize(
    ("categories", "vectors", "message"),
    [
        ({"region": "north"}, {}, "category 'region' is not declared in context; declared are: device"),
        ({}, {"device": [1.0]}, "vector 'device' is not declared in context; declared are: speaker"),
    ],
)
def test_requests_name_only_what_is_declared(categories: dict, vectors: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        context_of_requests(FIELDS, [categories], [vectors])


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ContextFileError, match="no such file"):
        Labels(tmp_path / "utt2device")
    file = tmp_path / "utt2x"
    file.write_text("a phone\nb\n")
    with pytest.raises(ContextFileError, match="utt2x:2: expected an utterance and a value, got 'b'"):
        Labels(file)
    file.write_text("a 1\nb /nowhere.ark:7\n")
    with pytest.raises(ContextFileError, match="utt2x:2: utterance b: no vector"):
        Vectors(file)["b"]


def test_length_and_order_are_the_file_s(folder: Path) -> None:
    reader = ForTraining(Labels(folder / "utt2device"))
    assert list(reader) == ["a", "c"] and len(reader) == 2
    assert reader["b"].tolist() == [-1]
