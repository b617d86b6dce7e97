"""Split prompts into training, dev and test so that nothing of a test prompt is trained on.

Prompts that say the same, in whatever language, are one group (``for`` and ``vm-for``; the three
readings of one sentence), and a group lies in one set. A group's place is a hash of the seed and of
its first name: it does not depend on order or machine.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping

TRAIN, DEV, TEST = "train", "dev", "test"


def normalise(text: str) -> str:
    """What two texts must share to count as the same: letters and digits, no case, no accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(char for char in decomposed if not unicodedata.combining(char))
    return " ".join(re.findall(r"\w+", plain))


def group_prompts(texts: Mapping[str, Mapping[str, str]]) -> list[frozenset[str]]:
    """Group prompt names that share a normalised text.

    Args:
        texts: language -> prompt name -> text.

    Returns:
        Groups in the order of their first names; every name is in exactly one.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    first_with: dict[str, str] = {}
    for by_name in texts.values():
        for name, text in by_name.items():
            parent[root(name)] = root(first_with.setdefault(normalise(text), name))
    members = defaultdict(set)
    for name in list(parent):
        members[root(name)].add(name)
    return sorted((frozenset(group) for group in members.values()), key=min)


def split_prompts(
    texts: Mapping[str, Mapping[str, str]], dev_share: float, test_share: float, seed: int
) -> dict[str, str]:
    """Give each prompt name its set.

    Args:
        texts: language -> prompt name -> text.
        dev_share, test_share: wanted shares of the groups, each above 0, together below 1.
        seed: another seed gives another split.

    Returns:
        prompt name -> ``train``, ``dev`` or ``test``.

    Raises:
        ValueError: for impossible shares.
    """
    if not (dev_share > 0 and test_share > 0 and dev_share + test_share < 1):
        raise ValueError(
            f"dev_share and test_share must be above 0 and together below 1, got {dev_share} and {test_share}"
        )
    sets = {}
    for group in group_prompts(texts):
        place = _uniform(f"{seed}:{min(group)}")
        chosen = TEST if place < test_share else DEV if place < test_share + dev_share else TRAIN
        sets.update(dict.fromkeys(group, chosen))
    return sets


def _uniform(key: str) -> float:
    """A number in [0, 1) that depends on ``key`` alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
