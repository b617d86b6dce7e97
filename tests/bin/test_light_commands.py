"""Commands that need no torch start without it: its import takes longer than their work."""

import subprocess
import sys

import pytest

COMMANDS = "bin.check_data bin.filter_data bin.tokenize bin.score bin.results bin.report analysis.report".split()


@pytest.mark.parametrize("name", COMMANDS)
def test_torch_is_not_imported(name):
    code = f"import sys, espnet_gated.{name}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
