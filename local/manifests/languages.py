"""Names of languages: ours are ISO 639-3, as OWSM has them; the corpora's are ISO 639-1."""

from __future__ import annotations

from collections.abc import Iterable

ISO_639_1 = {
    "ara": "ar",
    "ces": "cs",
    "deu": "de",
    "ell": "el",
    "eng": "en",
    "fas": "fa",
    "fra": "fr",
    "ita": "it",
    "nld": "nl",
    "pol": "pl",
    "por": "pt",
    "ron": "ro",
    "rus": "ru",
    "spa": "es",
    "tur": "tr",
    "vie": "vi",
    "zho": "zh",
}


def check_langs(langs: Iterable[str], known: Iterable[str], option: str = "--langs") -> list[str]:
    """Return ``langs`` without repetitions.

    Raises:
        ValueError: for none, or one that the corpus does not have.
    """
    langs, known = list(dict.fromkeys(langs)), sorted(known)
    for lang in langs:
        if lang not in known:
            raise ValueError(f"language must be one of {', '.join(known)}; got {lang!r} ({option})")
    if not langs:
        raise ValueError(f"need at least one language ({option})")
    return langs
