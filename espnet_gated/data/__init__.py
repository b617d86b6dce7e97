"""ESPnet data directories: writing, reading, checking and filtering them."""

from espnet_gated.data.check import Limits, check_data_dir
from espnet_gated.data.datadir import (
    DataDirError,
    Problem,
    Utterance,
    read_data_dir,
    write_data_dir,
)

__all__ = [
    "DataDirError",
    "Limits",
    "Problem",
    "Utterance",
    "check_data_dir",
    "read_data_dir",
    "write_data_dir",
]
