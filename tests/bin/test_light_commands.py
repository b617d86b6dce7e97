"""Commands that only read and write text start without torch, whose import takes longer than their work."""

import subprocess
import sys

import pytest

COMMANDS = "check_data filter_data tokenize score results report".split()


@pytest.mark.parametrize("name", COMMANDS)
def test_torch_is_not_imported(name):
    code = f"import sys, espnet_gated.bin.{name}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
