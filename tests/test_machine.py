"""The processor's name."""

import pytest

from espnet_gated.machine import cpu_name

X86 = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: other\n"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\n"


@pytest.mark.parametrize(
    ("text", "name"), [(X86, "AMD EPYC (family 25, model 1)"), (ARM, "aarch64"), (None, "aarch64")]
)
def test_the_name_says_which_processor(text, name, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert cpu_name(str(file)) == name
