"""The asterisk corpus: the cleaning rule and the split, both on text alone."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.asterisk import corpus, split, transcripts


# --- the cleaning rule ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("lang", "raw", "text"),
    [
        ("eng", "at [@]", "at"),
        ("eng", "space [ ]", "space"),
        ("ita", "[!] punto esclamativo", "punto esclamativo"),
        ("eng", "Leave your message after the tone. (simple tone sound plays)", "Leave your message after the tone."),
        ("ita", "premere cancelletto. (un beep).", "premere cancelletto."),
        ("eng", 'IAX (note: does not say "2")', "IAX"),
        ("eng", "press 1 to accept, or 2 to reject", "press one to accept, or two to reject"),
        ("fra", "appuyez sur 5.Pour retourner, 0", "appuyez sur cinq. Pour retourner, zéro"),
        ("rus", "Нажмите 1 - или 2", "Нажмите один или два"),
        ("rus", "первoe", "первое"),
        ("rus", "буквы «Q» и «Z».", "буквы Q и Z."),
        ("spa", "...para salir.", "para salir."),
        ("ita", "Benvenuto nell’elenco…", "Benvenuto nell'elenco"),
        ("fra", "Pour  le volume ..., ”", "Pour le volume,"),
        ("spa", "En que carpeta ?", "En que carpeta?"),
        ("eng", "Login incorrect.  Mailbox?", "Login incorrect. Mailbox?"),
        ("ita", "cosi? Altro", "cosi? Altro"),
        ("ita", "e\u0300 chiuso", "\u00e8 chiuso"),
        ("eng", "re-record it, o'clock", "re-record it, o'clock"),
        ("eng", "Options:Dial 1", "Options: Dial one"),
        ("eng", "A.M.", "A.M."),
    ],
)
def test_clean(lang, raw, text):
    assert transcripts.clean(raw, lang) == text
    assert transcripts.clean(text, lang) == text  # nothing is left to clean


@pytest.mark.parametrize(
    ("lang", "raw", "reason"),
    [
        ("eng", "[this is a simple beep tone]", transcripts.NO_SPEECH),
        ("eng", "(10 seconds of silence)", transcripts.NO_SPEECH),
        ("eng", "<beep ascending>", transcripts.NO_SPEECH),
        ("ita", "Il [suo] messaggio", transcripts.UNCLEAR_BRACKET),
        ("ita", "[tentativo di] Parcheggio", transcripts.UNCLEAR_BRACKET),
        ("ita", "riprova pi? tardi.", transcripts.LOST_LETTER),
        ("ita", "La conferenza ? piena.", transcripts.LOST_LETTER),
        ("ita", "il tempo sar? esattamente..", transcripts.LOST_LETTER),
        ("eng", "dial 500", transcripts.NO_READING),
        ("eng", "H.323", transcripts.NO_READING),
        ("eng", "a 28.8 modem", transcripts.NO_READING),
        ("eng", "3D audio", transcripts.NO_READING),
        ("eng", "press * or #", transcripts.NO_READING),
        ("ita", "attivare/disattivare", transcripts.NO_READING),
        ("eng", "...", transcripts.EMPTY),
        ("eng", "", transcripts.EMPTY),
        ("rus", "at [@]", transcripts.OTHER_SCRIPT),
        ("eng", "ноль", transcripts.OTHER_SCRIPT),
    ],
)
def test_unusable(lang, raw, reason):
    with pytest.raises(transcripts.Unusable, match=f"^{reason}$"):
        transcripts.clean(raw, lang)


def test_prompt_names_inside_a_text():
    names = {"vm-then-pound", "vm-b"}
    assert transcripts.clean("vm-b: vm-b: Hello", "eng", "vm-b", names) == "Hello"
    assert transcripts.clean("Note: hello", "eng", "vm-b", names) == "Note: hello"
    with pytest.raises(transcripts.Unusable, match=transcripts.MERGED):
        transcripts.clean("gone vm-then-pound: then pound", "eng", "vm-b", names)


@given(st.text(max_size=60))
def test_clean_text_is_clean(raw):
    try:
        text = transcripts.clean(raw, "eng")
    except transcripts.Unusable:
        return
    assert text == " ".join(text.split())
    assert not set(text) & set('0123456789[]()<>"*#/“”…')


def test_read_transcripts(tmp_path):
    file = tmp_path / "core.txt.gz"
    lines = "\ufeff; comment\n\ndigits/0: cero\ndigits/0: diez\nletters/O: o\nbeep: [tono]\nvm-x:\n"
    file.write_bytes(gzip.compress(lines.encode()))
    read = transcripts.read_transcripts(file, "spa")
    assert read.texts == {"digits/0": "cero", "letters/o": "o"}
    assert read.dropped == {
        "digits/0 (again)": transcripts.NAMED_TWICE,
        "beep": transcripts.NO_SPEECH,
        "vm-x": transcripts.EMPTY,
    }


def test_broken_transcripts_name_the_line(tmp_path):
    file = tmp_path / "core.txt"
    file.write_text("hello: Hello.\nno colon here\n")
    with pytest.raises(ValueError, match=r"core\.txt:2: .*no colon"):
        transcripts.read_transcripts(file, "eng")
    with pytest.raises(ValueError, match="lang must be one of eng, .*'deu'"):
        transcripts.read_transcripts(file, "deu")


def test_a_sound_in_one_language_is_a_sound_in_all():
    eng = transcripts.Transcripts({"hi": "Hi"}, {"join": transcripts.NO_SPEECH})
    ita = transcripts.Transcripts({"hi": "Ciao", "join": "un suono"}, {})
    cleaned = corpus.drop_sounds({"eng": eng, "ita": ita})
    assert cleaned["ita"].texts == {"hi": "Ciao"}
    assert cleaned["ita"].dropped == {"join": transcripts.NO_SPEECH}


# --- the split --------------------------------------------------------------------------------------------------------
@given(
    st.dictionaries(
        st.sampled_from(["eng", "fra", "rus"]),
        st.dictionaries(st.sampled_from([f"p{i}" for i in range(12)]), st.sampled_from("àBCdEfgh")),
    ),
    st.integers(0, 3),
)
def test_nothing_said_is_in_two_sets(texts, seed):
    sets = split.split_prompts(texts, 0.3, 0.3, seed)
    assert set(sets) == {name for by_name in texts.values() for name in by_name}
    for one in texts.values():
        for other in texts.values():
            for a in one:
                for b in other:
                    if split.normalise(one[a]) == split.normalise(other[b]):
                        assert sets[a] == sets[b]


def test_split_is_a_function_of_names_and_seed():
    texts = {"eng": {f"p{i}": f"text {i}" for i in range(400)}}
    backwards = {"eng": dict(reversed(texts["eng"].items()))}
    first = split.split_prompts(texts, 0.08, 0.12, 0)
    assert first == split.split_prompts(backwards, 0.08, 0.12, 0)
    assert first != split.split_prompts(texts, 0.08, 0.12, 1)
    shares = [list(first.values()).count(name) / 400 for name in ("train", "dev", "test")]
    assert shares == pytest.approx([0.80, 0.08, 0.12], abs=0.05)


def test_same_text_ignores_case_accents_and_marks():
    assert split.normalise("¡El NÚMERO, por favor!") == split.normalise("el numero por favor")


@pytest.mark.parametrize("shares", [(0, 0.1), (0.1, 0), (0.5, 0.5), (-0.1, 0.2)])
def test_impossible_shares(shares):
    with pytest.raises(ValueError, match="dev_share and test_share must be"):
        split.split_prompts({}, *shares, seed=0)
