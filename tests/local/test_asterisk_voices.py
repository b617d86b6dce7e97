"""The manual's text, pinned packages, and the engines behind stand-ins that are compiled here."""

import hashlib
import io
import subprocess
import urllib.error
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from local.asterisk import guide, natural, packages
from local.asterisk.augment import Augmentation
from local.mini import synth

PAGE = """<html><p>The <em>second</em> disk, which you don't need, is <code>/dev/sdb</code> now mounted. Press
Enter&nbsp;twice</p><pre>some code here</pre><p>Use 3 disks at once</p><p>The second disk</p></html>"""


def test_the_guide_gives_runs_of_plain_words(tmp_path):
    folder = tmp_path / "usr" / "share" / "doc" / guide.PACKAGE / "en"
    folder.mkdir(parents=True)
    (folder / "ch01.html").write_text(PAGE)
    assert guide.read_guide(tmp_path, "eng") == [
        ["the", "second", "disk"],
        ["which", "you", "don't", "need"],
        ["now", "mounted"],
        ["press", "enter", "twice"],
        ["disks", "at", "once"],
    ]  # each once: the last paragraph says what the first began with
    with pytest.raises(FileNotFoundError, match="no pages in .*/ru; is the package unpacked whole"):
        guide.read_guide(tmp_path, "rus")


def test_another_script_ends_a_run(tmp_path):
    folder = tmp_path / "usr" / "share" / "doc" / guide.PACKAGE / "ru"
    folder.mkdir(parents=True)
    (folder / "a.html").write_text("<p>Выберите задачу Linux или ещё что-нибудь</p>", encoding="utf-8")
    assert guide.read_guide(tmp_path, "rus") == [["выберите", "задачу"], ["или", "ещё", "что-нибудь"]]


# -- pinned packages ------------------------------------------------------------------------------
@pytest.fixture
def pin(monkeypatch):
    """One pinned package, whose file holds ``octets``."""
    octets = b"a package"
    one = packages.Pinned("pool/some+voice_1_all.deb", hashlib.sha256(octets).hexdigest())
    monkeypatch.setattr(packages, "PINNED", {"some-voice": one})
    monkeypatch.setattr(packages.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0))
    return octets


def serve(monkeypatch, answers):
    """``urlopen`` that gives the next of ``answers``, octets or an error; the list of addresses asked for."""
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(packages.urllib.request, "urlopen", urlopen)
    return asked


def test_a_pinned_package_comes_from_the_next_mirror_once(tmp_path, monkeypatch, pin):
    asked = serve(monkeypatch, [urllib.error.URLError("gone"), pin])
    root = packages.unpack_pinned(["some-voice"], tmp_path)
    assert root.is_dir() and root == packages.unpack_pinned(["some-voice"], tmp_path)
    assert asked == [mirror + "pool/some%2Bvoice_1_all.deb" for mirror in packages.MIRRORS]
    assert (tmp_path / "debs" / "some+voice_1_all.deb").read_bytes() == pin


def test_another_file_than_the_pinned_one_is_refused(tmp_path, monkeypatch, pin):
    serve(monkeypatch, [b"something else"])
    with pytest.raises(packages.FetchError, match="some%2Bvoice_1_all.deb: SHA-256 must be .*, got "):
        packages.unpack_pinned(["some-voice"], tmp_path)
    assert not list((tmp_path / "debs").iterdir())


def test_no_mirror_answers(tmp_path, monkeypatch, pin):
    serve(monkeypatch, [urllib.error.URLError("gone")] * len(packages.MIRRORS))
    with pytest.raises(packages.FetchError, match="could not fetch some.voice_1_all.deb .*gone.* you may put it into"):
        packages.unpack_pinned(["some-voice"], tmp_path)


def test_other_machines_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.platform, "machine", lambda: "riscv64")
    with pytest.raises(packages.FetchError, match="libttspico0 .*need an x86-64 machine, this is riscv64"):
        packages.unpack_pinned(natural.PACKAGES, tmp_path)


def test_what_an_augmentation_fetches():
    assert Augmentation(voices=1).packages == ()
    assert Augmentation(guide=1).packages == (guide.PACKAGE,)
    assert set(Augmentation(natural=0.5).packages) <= set(packages.PINNED)
    with pytest.raises(ValueError, match=r"natural must be in \[0, 1\], got 2"):
        Augmentation(natural=2)


# -- engines --------------------------------------------------------------------------------------
# Each says as many samples of 100 as the text it was given has octets, times ten.
PICO = """
#include <string.h>
static int left;
int pico_initialize(void *m, unsigned n, void **s) { *s = m; return n < 1000000; }
int pico_createVoiceDefinition(void *s, const char *v) { return 0; }
int pico_loadResource(void *s, const char *f, void **r) { *r = s; return 0; }
int pico_getResourceName(void *s, void *r, char *n) { strcpy(n, "name"); return 0; }
int pico_addResourceToVoiceDefinition(void *s, const char *v, const char *n) { return strcmp(n, "name"); }
int pico_newEngine(void *s, const char *v, void **e) { *e = s; return 0; }
int pico_putTextUtf8(void *e, const char *t, short n, short *put) { *put = n; left = 10 * n; return 0; }
int pico_getData(void *e, short *out, short n, short *got, short *kind) {
    int i, k = n / 2 < left ? n / 2 : left;
    for (i = 0; i < k; i++) out[i] = 100;
    left -= k; *got = 2 * k; *kind = 1;
    return left ? 201 : 200;
}
"""
RHVOICE = """
#include <stdlib.h>
typedef struct { const char *data, *config; const char **paths; int (*rate)(int, void *);
    int (*play)(const short *, unsigned, void *); void *rest[7]; unsigned options; } init;
typedef struct { const char *voice; double a[3], relative[3]; int mode; const char *list; int capitals, flags; } synth;
static init given; static unsigned length;
void *RHVoice_new_tts_engine(const init *p) { given = *p; return p->rest[0] || p->options ? 0 : &given; }
void *RHVoice_new_message(void *e, const char *t, unsigned n, int kind, const synth *s, void *user) {
    length = 10 * n / s->relative[0]; return s->mode || s->flags || kind ? 0 : &length; }
int RHVoice_speak(void *m) {
    short *s = malloc(2 * length); unsigned i;
    for (i = 0; i < length; i++) s[i] = 100;
    given.rate(24000, 0); given.play(s, length, 0); free(s); return 1; }
void RHVoice_delete_message(void *m) {}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("voices")
    place = root / "usr" / "lib" / "some-triplet"
    place.mkdir(parents=True)
    for name, code in (
        ("libttspico.so.0", PICO),
        ("libRHVoice.so.5", RHVOICE),
        ("libRHVoice_core.so.7", "int nothing;"),
        ("libsonic.so.0", "int nothing;"),
    ):
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-w", "-o", str(place / name), "-"]
        subprocess.run(command, input=code, text=True, check=True)
    return root


def speech(variant, text, rate=natural.BASE_RATE):
    return synth.Speech(Path("a.wav"), "eng", text, variant, rate, 50, 50, synth.PRETENDED_RATES[0], 30.0, 0)


def test_pico_says_it_all(root):
    engine = natural.Natural(root)
    long, short = (engine.speak(speech("pico:en-GB", "a" * n)) for n in (20, 10))
    assert len(long) - len(short) == pytest.approx(10 * 10 * natural.NOMINAL_FS / 16000, abs=2)
    assert np.median(long) == pytest.approx(100 / 32768, rel=0.01)


def test_rhvoice_says_it_all_and_faster(root):
    engine = natural.Natural(root)
    slow = engine.speak(speech("rhvoice:anna", "a" * 40))
    fast = engine.speak(speech("rhvoice:anna", "a" * 40, rate=2 * natural.BASE_RATE))
    assert len(slow) == pytest.approx(400 * natural.NOMINAL_FS / 24000, abs=2)
    assert len(fast) == pytest.approx(len(slow) / 2, abs=2)


def test_an_unknown_voice(root):
    with pytest.raises(RuntimeError, match="no such voice: 'pico:xx'"):
        natural.Natural(root).speak(speech("pico:xx", "a"))


def test_a_missing_library(tmp_path):
    with pytest.raises(RuntimeError, match=r"no libttspico.so.0 below .*; is the package unpacked whole"):
        natural.Natural(tmp_path).speak(speech("pico:en-GB", "a"))


def test_every_language_has_natural_voices():
    assert {lang: len(natural.voices(lang)) for lang in ("eng", "fra", "ita", "rus", "spa")} == {
        "eng": 6, "fra": 1, "ita": 1, "rus": 4, "spa": 1,
    }  # fmt: skip
    assert all(natural.is_natural(voice) for voice in natural.voices("rus"))
    assert not any(natural.is_natural(voice) for voice in synth.split_voices().train)


def test_synthesize_takes_another_engine(root, tmp_path):
    jobs = [replace(speech("rhvoice:bdl", "a" * 400), path=tmp_path / f"{i}.wav") for i in range(2)]
    lengths = synth.synthesize(jobs, 1, partial(natural.Natural, root), "stand-in")
    assert all(job.path.is_file() for job in jobs) and lengths[0] == lengths[1] > 1000
