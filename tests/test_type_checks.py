"""ESPnet with and without its run-time type checks."""

import os
import subprocess
import sys

import pytest
import typeguard

from espnet_gated import type_checks

CODE = """
import espnet_gated
from espnet2.layers.stft import Stft
try:
    Stft(n_fft="wide")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(("value", "errors"), [("true", ["TypeCheckError"]), ("false", [])])
def test_type_checks_can_be_left_out(value, errors):
    environment = os.environ | {"ESPNET_GATED_TYPE_CHECKS": value}
    result = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == errors


def test_the_tests_themselves_are_checked():
    assert typeguard.typechecked is not type_checks._as_it_is
