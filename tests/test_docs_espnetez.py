"""docs/examples/espnetez_training.py: espnetez trains a gated model that decodes."""

import runpy

import soundfile
from tiny_project import CONFIG, ROOT, gated, make_data, write_config

from espnet_gated import Speech2Text
from espnet_gated.model import GatedESPnetS2TModel


def test_espnetez_trains_a_gated_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path)
    write_config(tmp_path / "conf" / "train.yaml", gated(CONFIG))
    example = runpy.run_path(str(ROOT / "docs" / "examples" / "espnetez_training.py"))
    folder = example["train"]("conf/train.yaml", "data/train", "data/dev", "exp/ez")
    assert (folder / "valid.acc.best.pth").is_file()
    speech2text = Speech2Text.from_pretrained(str(folder), sparsity=0.5, beam_size=2, maxlenratio=-5)
    assert isinstance(speech2text.s2t_model, GatedESPnetS2TModel)
    speech, _ = soundfile.read("audio/hello.wav", dtype="float32")
    assert speech2text(speech, lang_sym="<deu>", task_sym="<asr>")
    assert speech2text.stats[0].skipped["decoder"] >= 0.5 - 1e-6
