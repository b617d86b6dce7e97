"""Limited-domain grammar: one frame gives the German, French and Italian source and its English translation.

Every frame draws meanings from :mod:`local.mini.lexicon` and spells them in the four languages at once, so a
translation is exact by construction. Articles, cases, contractions, elisions, agreement, numbers and hours are computed
here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from num2words import num2words

from local.mini import lexicon as lx
from local.mini.lexicon import Adjective, Noun

Case = Literal["nom", "acc", "dat"]
Four = tuple[str, ...]

_GERMAN_ARTICLES: dict[Case, dict[str, str]] = {
    "nom": {"m": "der", "f": "die", "n": "das"},
    "acc": {"m": "den", "f": "die", "n": "das"},
    "dat": {"m": "dem", "f": "der", "n": "dem"},
}
_VOWELS = "aeiouyhàâäéèêëîïôöùûü"  # no French word of the lexicon starts with an aspirated h
_ITALIAN_LO = ("z", "gn", "ps", "x", "y")  # and s before a consonant: see _italian_article


@dataclass(frozen=True)
class Sentence:
    """One meaning, spelt as a sentence in each language (fields are ISO 639-3 codes)."""

    deu: str
    fra: str
    ita: str
    eng: str

    def in_language(self, lang: str) -> str:
        """Return the sentence in ``lang``; raises ``ValueError`` for a language that the grammar lacks."""
        if lang not in lx.LANGS:
            raise ValueError(f"lang must be one of {lx.LANGS}, got {lang!r}")
        return getattr(self, lang)


# ---------------------------------------------------------------- morphology
def _french_article(word: str, gender: str) -> str:
    if word[0].lower() in _VOWELS:
        return "l'"
    return "le " if gender == "m" else "la "


def _italian_article(word: str, gender: str) -> str:
    first = word.lower()
    if first[0] in "aeiou":
        return "l'"
    if gender == "f":
        return "la "
    impure = first[0] == "s" and first[1] not in "aeiou"
    return "lo " if impure or first.startswith(_ITALIAN_LO) else "il "


def french_de(definite: str) -> str:
    """Put "de" before a definite noun phrase: ``le pont`` gives ``du pont``; other articles stay."""
    return "du " + definite[3:] if definite.startswith("le ") else "de " + definite


def italian_contract(preposition: Literal["a", "di"], definite: str) -> str:
    """Merge "a" or "di" with a definite article: ``lo zaino`` gives ``allo zaino`` or ``dello zaino``."""
    stem = {"a": "a", "di": "de"}[preposition]
    if definite.startswith("il "):
        return f"{stem}l {definite[3:]}"
    return f"{stem}l{definite}"  # la, lo and l' double their l


def definite(noun: Noun, case: Case = "nom") -> Four:
    """Return ``noun`` with its definite article in the four languages; ``case`` matters in German only."""
    deu, fra, ita, eng = noun.words
    return (
        f"{_GERMAN_ARTICLES[case][noun.genders[0]]} {deu}",
        _french_article(fra, noun.genders[1]) + fra,
        _italian_article(ita, noun.genders[2]) + ita,
        f"the {eng}",
    )


def _agree(forms: tuple[str, str], gender: str) -> str:
    return forms[1] if gender == "f" else forms[0]


def coloured(noun: Noun, colour: Adjective) -> Four:
    """Return the definite ``noun`` with ``colour`` as a German accusative: ``den roten Hut``, ``le chapeau rouge``."""
    deu, fra, ita, eng = definite(noun, "acc")
    article, word = deu.split(" ", 1)
    ending = "en" if noun.genders[0] == "m" else "e"
    return (
        f"{article} {colour.deu}{ending} {word}",
        f"{fra} {_agree(colour.fra, noun.genders[1])}",
        f"{ita} {_agree(colour.ita, noun.genders[2])}",
        f"the {colour.eng} {noun.words[3]}",
    )


def cardinal(number: int, french_gender: str = "m") -> Four:
    """Spell ``number`` in the four languages; French "un" agrees with ``french_gender``."""
    deu, fra, ita, eng = (num2words(number, lang=code) for code in ("de", "fr", "it", "en"))
    if french_gender == "f" and (fra == "un" or fra.endswith((" un", "-un"))):
        fra += "e"
    return deu, fra, ita, eng


def clock(hour: int, part: Literal["full", "quarter", "half"]) -> Four:
    """Return "at <time>" on the 12-hour clock.

    Args:
        hour: 1 to 12.
        part: the full hour, a quarter past or half past it.
    """
    deu, fra, ita, eng = cardinal(hour, french_gender="f")
    french = f"à {fra} heure" + ("" if hour == 1 else "s")
    italian = "all'una" if hour == 1 else f"alle {ita}"
    if part == "full":
        return f"um {'ein' if hour == 1 else deu} Uhr", french, italian, f"at {eng} o'clock"
    if part == "quarter":
        return (
            f"um Viertel nach {deu}",
            f"{french} et quart",
            f"{italian} e un quarto",
            f"at a quarter past {eng}",
        )
    following = num2words(hour % 12 + 1, lang="de")  # German counts towards the next hour
    return f"um halb {following}", f"{french} et demie", f"{italian} e mezza", f"at half past {eng}"


def date(day: int, month: Four) -> Four:
    """Return "on the <day> of <month>"; raises ``ValueError`` for a day outside 1 to 31."""
    if not 1 <= day <= 31:
        raise ValueError(f"day must be in 1..31, got {day}")
    ita = num2words(day, lang="it")
    italian = "il primo" if day == 1 else _italian_article(ita, "m") + ita
    french = "premier" if day == 1 else num2words(day, lang="fr")  # no elision: le huit, le onze
    return (
        f"am {num2words(day, lang='de', to='ordinal')}n {month[0]}",
        f"le {french} {month[1]}",
        f"{italian} {month[2]}",
        f"on the {num2words(day, to='ordinal')} of {month[3]}",
    )


def in_city(city: Four) -> Four:
    """Return "in/at <city>": Italian "a" becomes "ad" before another a."""
    italian = "ad" if city[2].startswith("A") else "a"
    return f"in {city[0]}", f"à {city[1]}", f"{italian} {city[2]}", f"in {city[3]}"


def place(preposition: Four, landmark: Noun) -> Four:
    """Return ``preposition`` with ``landmark``: ``neben dem Baum``, ``à côté de l'arbre``, ``accanto all'albero``."""
    deu, fra, ita, eng = definite(landmark, "dat")
    de_less, a_less = preposition[1].removesuffix(" de"), preposition[2].removesuffix(" a")
    return (
        f"{preposition[0]} {deu}",
        f"{de_less} {fra if de_less == preposition[1] else french_de(fra)}",
        f"{a_less} {ita if a_less == preposition[2] else italian_contract('a', ita)}",
        f"{preposition[3]} {eng}",
    )


# -------------------------------------------------------------------- frames
Frame = Callable[[random.Random], Four]
FRAMES: dict[str, Frame] = {}


def _frame(function: Frame) -> Frame:
    FRAMES[function.__name__] = function
    return function


def _fill(patterns: Four, **slots: Four) -> Four:
    return tuple(
        pattern.format(**{name: words[i] for name, words in slots.items()}) for i, pattern in enumerate(patterns)
    )


def _person(rng: random.Random) -> Four:
    chosen = rng.choice([*lx.PEOPLE, *lx.RELATIVES])
    return definite(chosen) if isinstance(chosen, Noun) else chosen


def _split(words: Four) -> tuple[Four, Four]:
    """Separate the German sentence bracket ``second_last``; the other languages keep their words together."""
    second, _, last = words[0].partition("_")
    return (second, *words[1:]), (last, "", "", "")


@_frame
def perfect(rng: random.Random) -> Four:
    """The queen sold the picture yesterday."""
    patterns = (
        "{who} hat {when} {what} {did}.",
        "{when}, {who} a {did} {what}.",
        "{when} {who} ha {did} {what}.",
        "{who} {did} {what} {when}.",
    )
    return _fill(
        patterns,
        who=_person(rng),
        when=rng.choice(lx.PAST_TIMES),
        what=definite(rng.choice(lx.THINGS), "acc"),
        did=rng.choice(lx.VERBS).past,
    )


@_frame
def modal(rng: random.Random) -> Four:
    """The judge must repair the bicycle."""
    can, negation = _split(rng.choice(lx.MODALS))
    patterns = ("{who} {can} {what} {nicht} {do}.", *("{who} {can} {do} {what}.",) * 3)
    return _fill(
        patterns,
        who=_person(rng),
        can=can,
        nicht=negation,
        what=definite(rng.choice(lx.THINGS), "acc"),
        do=rng.choice(lx.VERBS).infinitive,
    )


@_frame
def colour(rng: random.Random) -> Four:
    """My uncle is washing the red hat."""
    return _fill(
        ("{who} {does} {what}.",) * 4,
        who=_person(rng),
        does=rng.choice(lx.VERBS).present,
        what=coloured(rng.choice(lx.THINGS), rng.choice(lx.COLOURS)),
    )


@_frame
def location(rng: random.Random) -> Four:
    """The lamp is behind the door."""
    patterns = ("{what} ist {where}.", "{what} est {where}.", "{what} è {where}.", "{what} is {where}.")
    where = place(rng.choice(lx.PLACES), rng.choice(lx.LANDMARKS))
    return _fill(patterns, what=definite(rng.choice(lx.THINGS)), where=where)


@_frame
def comparison(rng: random.Random) -> Four:
    """The ring is older than the watch."""
    first, second = rng.sample(lx.THINGS, 2)
    degree = rng.choice(lx.COMPARISONS)
    a, b = definite(first), definite(second)
    return (
        f"{a[0]} ist {degree.deu} als {b[0]}.",
        f"{a[1]} est plus {_agree(degree.fra, first.genders[1])} que {b[1]}.",
        f"{a[2]} è più {_agree(degree.ita, first.genders[2])} {italian_contract('di', b[2])}.",
        f"{a[3]} is {degree.eng} than {b[3]}.",
    )


@_frame
def count(rng: random.Random) -> Four:
    """The farmer counts forty-one cows."""
    herd = rng.choice(lx.ANIMALS)
    return _fill(
        ("{who} {does} {number} {herd}.",) * 4,
        who=_person(rng),
        does=rng.choice(lx.HERDING),
        number=cardinal(rng.randint(2, 99), herd.genders[1]),
        herd=herd.words,
    )


@_frame
def pay(rng: random.Random) -> Four:
    """Your daughter pays ninety euros for the mirror."""
    patterns = (
        "{who} zahlt {number} Euro für {what}.",
        "{who} paie {number} euros pour {what}.",
        "{who} paga {number} euro per {what}.",
        "{who} pays {number} euros for {what}.",
    )
    what = definite(rng.choice(lx.THINGS), "acc")
    return _fill(patterns, who=_person(rng), number=cardinal(rng.randint(2, 99)), what=what)


@_frame
def schedule(rng: random.Random) -> Four:
    """The nurse comes back on Monday at half past three."""
    does, last = _split(rng.choice(lx.COMINGS))
    patterns = ("{who} {does} {day} {time} {last}.", *("{who} {does} {day} {time}.",) * 3)
    time = clock(rng.randint(1, 12), rng.choice(("full", "full", "quarter", "half")))
    return _fill(patterns, who=_person(rng), does=does, last=last, day=rng.choice(lx.WEEKDAYS), time=time)


@_frame
def birthday(rng: random.Random) -> Four:
    """The singer has her birthday on the third of May; English and the others leave out whose."""
    patterns = (
        "{who} hat {date} Geburtstag.",
        "{who} fête son anniversaire {date}.",
        "{who} compie gli anni {date}.",
        "{who} has a birthday {date}.",
    )
    # 28 days: every drawn date exists in every month
    return _fill(patterns, who=_person(rng), date=date(rng.randint(1, 28), rng.choice(lx.MONTHS)))


@_frame
def travel(rng: random.Random) -> Four:
    """Our friend is going to Turin by train tomorrow."""
    patterns = (
        "{who} fährt {when} {how} {where}.",
        "{when}, {who} va {where} {how}.",
        "{when} {who} va {where} {how}.",
        "{who} is going {where} {how} {when}.",
    )
    city = rng.choice(lx.CITIES)
    _, fra, ita, _ = in_city(city)
    where = (f"nach {city[0]}", fra, ita, f"to {city[3]}")
    return _fill(
        patterns,
        who=_person(rng),
        when=rng.choice(lx.FUTURE_TIMES),
        how=rng.choice(lx.VEHICLES),
        where=where,
    )


@_frame
def weather(rng: random.Random) -> Four:
    """Tomorrow it will snow in Krakow."""
    will, last = _split(rng.choice(lx.WEATHER))
    patterns = (
        "{when} {will} {where} {last}.",
        "{when}, {will} {where}.",
        "{when} {will} {where}.",
        "{when} {will} {where}.",
    )
    where = in_city(rng.choice(lx.CITIES))
    return _fill(patterns, when=rng.choice(lx.FUTURE_TIMES), will=will, where=where, last=last)


@_frame
def ask(rng: random.Random) -> Four:
    """Can you lend me the green umbrella?"""
    favour = rng.choice(lx.FAVOURS)
    me = "m'" if favour[1][0] in _VOWELS else "me "
    patterns = (
        "kannst du mir {what} {do}?",
        "peux-tu " + me + "{do} {what}?",
        "puoi {do} {what}?",
        "can you {do} me {what}?",
    )
    what = coloured(rng.choice(lx.THINGS), rng.choice(lx.COLOURS))
    return _fill(patterns, do=favour, what=what)


def _finish(words: str) -> str:
    """Close the gap that an empty bracket leaves and start with a capital letter."""
    tidy = " ".join(words.split()).replace(" .", ".")
    return tidy[0].upper() + tidy[1:]


def sample(rng: random.Random) -> Sentence:
    """Draw one sentence: every frame is equally likely, every slot uniform."""
    frame = FRAMES[rng.choice(list(FRAMES))]
    return Sentence(*(_finish(words) for words in frame(rng)))
