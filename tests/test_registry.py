"""Gated names can be chosen in ESPnet's YAML."""

import importlib
import sys

import pytest
from espnet.nets.beam_search import BeamSearch
from espnet2.tasks import s2t
from espnet2.tasks.s2t import S2TTask

from espnet_gated import registry
from espnet_gated.decoder import GatedTransformerDecoder
from espnet_gated.encoder import GatedEBranchformerEncoder
from espnet_gated.model import GatedESPnetS2TModel


def chosen():
    return (
        s2t.encoder_choices.get_class("gated_e_branchformer"),
        s2t.decoder_choices.get_class("gated_transformer"),
        s2t.model_choices.get_class("gated"),
    )


def test_names_are_choosable():
    registry.register()
    assert chosen() == (GatedEBranchformerEncoder, GatedTransformerDecoder, GatedESPnetS2TModel)
    assert "gated_e_branchformer" in s2t.encoder_choices.choices()
    assert s2t.encoder_choices.get_class("e_branchformer").__name__ == "EBranchformerEncoder"


def test_the_command_line_takes_them(tmp_path):
    registry.register()
    config = tmp_path / "train.yaml"
    config.write_text(
        "encoder: gated_e_branchformer\nencoder_conf: {gating: {target_sparsity: 0.3}}\n"
        "decoder: gated_transformer\nmodel: gated\nmodel_conf: {sparsity_weight: 2.0}\n",
        encoding="utf-8",
    )
    (tmp_path / "tokens.txt").write_text("<blank>\n<sos>\n", encoding="utf-8")
    options = ["--config", config, "--token_list", tmp_path / "tokens.txt", "--output_dir", tmp_path]
    args = S2TTask.get_parser().parse_args([str(option) for option in options])
    assert (args.encoder, args.decoder, args.model) == ("gated_e_branchformer", "gated_transformer", "gated")
    assert args.encoder_conf["gating"]["target_sparsity"] == 0.3


def test_registering_again_changes_nothing():
    registry.register()
    names, primer = chosen(), BeamSearch.set_hyp_primer
    registry.register()
    registry.register_when_imported()
    assert chosen() == names and BeamSearch.set_hyp_primer is primer
    assert sum(isinstance(finder, registry.LazyRegistration) for finder in sys.meta_path) == 1


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match=r"no gated classes for 'espnet2\.tasks\.tts'; tasks with some are .*espnet2"):
        registry.register("espnet2.tasks.tts")


@pytest.mark.parametrize("task", registry.CLASSES)
def test_every_entry_of_the_table_exists(task):
    """Names are ESPnet's with ``gated`` in front, and the table needs no gated name twice."""
    for attribute, table in registry.CLASSES[task].items():
        assert attribute.endswith("_choices")
        for name, path in table.items():
            module, _, cls = path.partition(":")
            assert name.startswith("gated") and hasattr(importlib.import_module(module), cls)


def test_a_search_without_gates_takes_any_primer():
    """The wrapped ``set_hyp_primer`` is ESPnet's for every other model."""
    registry.register()
    search = BeamSearch({}, {}, beam_size=1, vocab_size=3, sos=1, eos=2)
    search.set_hyp_primer([1, 2])
    assert search.hyp_primer == [1, 2]
    search.set_hyp_primer(None)
    assert search.hyp_primer is None
