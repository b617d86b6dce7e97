"""Which languages are translated into which, as the preparations' option --st_pairs says it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

ALL = "all"


def parse_pairs(
    pairs: Iterable[str], langs: Collection[str], targets: Collection[str] | None = None
) -> set[tuple[str, str]]:
    """Read ``fra-eng``, ``all-eng``, ``eng-all`` or ``all-all`` as (source, target) languages.

    Args:
        pairs: the words of the option.
        langs: languages that ``all`` stands for, and that may be sources.
        targets: languages that may be named as targets; ``None``: ``langs``.

    Raises:
        ValueError: for anything else, or a language that is not among those allowed.
    """
    sources = (ALL, *sorted(langs))
    allowed = (ALL, *sorted(set(langs) | set(targets or ())))
    wanted = set()
    for pair in pairs:
        source, dash, target = pair.partition("-")
        if not dash or source not in sources or target not in allowed or source == target != ALL:
            raise ValueError(
                f"st_pairs must be source-target with a source of {', '.join(sources)} and a target of "
                f"{', '.join(allowed)}, got {pair!r} (--st_pairs)"
            )
        every_source, every_target = ([*langs] if lang == ALL else [lang] for lang in (source, target))
        wanted |= {(s, t) for s in every_source for t in every_target if s != t}
    return wanted
