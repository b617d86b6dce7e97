"""Train a gated model with espnetez: ``import espnet_gated`` is all that is new.

``python docs/examples/espnetez_training.py --config conf/train.yaml --train data/train --valid data/dev --exp exp/ez``

The configuration is that of ``espnet2.bin.s2t_train`` and names gated classes (docs/swap_names.md); the data
directories are ESPnet's (``wav.scp``, ``text``, ``text.prev``, ``text.ctc``).
"""

import argparse
import sys
from pathlib import Path

import espnetez

import espnet_gated  # noqa: F401  (registers the gated names)

DATA = {
    "speech": ("wav.scp", "sound"),
    "text": ("text", "text"),
    "text_prev": ("text.prev", "text"),
    "text_ctc": ("text.ctc", "text"),
}


def train(config: str, train_dir: str, valid_dir: str, exp: str) -> Path:
    """Collect the statistics, train, and return the folder with ``config.yaml`` and the checkpoints."""
    trainer = espnetez.Trainer(
        task="s2t",
        train_config=espnetez.config.from_yaml("s2t", config),
        train_dump_dir=train_dir,
        valid_dump_dir=valid_dir,
        data_info=DATA,
        output_dir=f"{exp}/train",
        stats_dir=f"{exp}/stats",
        ngpu=0,
    )
    trainer.collect_stats()
    trainer.train()
    return Path(exp) / "train"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("config", "train", "valid", "exp"):
        parser.add_argument(f"--{option}", required=True)
    args = parser.parse_args()
    del sys.argv[1:]  # ESPnet's get_default_config, which espnetez calls, would take these options for its own
    print(train(args.config, args.train, args.valid, args.exp))
