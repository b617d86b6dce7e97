"""FLEURS as ESPnet S2T data: the same sentences read in up to 102 languages, so any can be translated into any.

    python local/prepare_fleurs.py --corpus_dir downloads --data_dir data --audio_dir downloads/16k --langs deu eng

writes ``data/{train,dev,test}`` through lhotse's recipe. With ``--download`` lhotse fetches the languages first.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: find local.manifests

from lhotse.recipes import fleurs  # noqa: E402

from local.manifests.cli import CHOICES, run  # noqa: E402
from local.manifests.datadirs import Places, prepare  # noqa: E402
from local.manifests.languages import check_langs  # noqa: E402
from local.manifests.segments import Sets, canonical, join  # noqa: E402
from local.pairs import parse_pairs  # noqa: E402

SETS = ("train", "dev", "test")
DATASETS = "datasets>=2.19,<3"
"""Later ones run no scripts, and FLEURS is one on the hub (lhotse-speech/lhotse, issue 1535)."""
# ISO 639-3 (macrolanguages as OWSM has them) and FLEURS' own names, by turns
_NAMES = """
afr af_za amh am_et ara ar_eg asm as_in ast ast_es aze az_az bel be_by ben bn_in bos bs_ba bul bg_bg cat ca_es
ceb ceb_ph ces cs_cz ckb ckb_iq cym cy_gb dan da_dk deu de_de ell el_gr eng en_us est et_ee fas fa_ir fil fil_ph
fin fi_fi fra fr_fr ful ff_sn gle ga_ie glg gl_es guj gu_in hau ha_ng heb he_il hin hi_in hrv hr_hr hun hu_hu
hye hy_am ibo ig_ng ind id_id isl is_is ita it_it jav jv_id jpn ja_jp kam kam_ke kan kn_in kat ka_ge kaz kk_kz
kea kea_cv khm km_kh kir ky_kg kor ko_kr lao lo_la lav lv_lv lin ln_cd lit lt_lt ltz lb_lu lug lg_ug luo luo_ke
mal ml_in mar mr_in mkd mk_mk mlt mt_mt mon mn_mn mri mi_nz msa ms_my mya my_mm nep ne_np nld nl_nl nob nb_no
nso nso_za nya ny_mw oci oc_fr ori or_in orm om_et pan pa_in pol pl_pl por pt_br pus ps_af ron ro_ro rus ru_ru
slk sk_sk slv sl_si sna sn_zw snd sd_in som so_so spa es_419 srp sr_rs swa sw_ke swe sv_se tam ta_in tel te_in
tgk tg_tj tha th_th tur tr_tr ukr uk_ua umb umb_ao urd ur_pk uzb uz_uz vie vi_vn wol wo_sn xho xh_za yor yo_ng
yue yue_hant_hk zho cmn_hans_cn zul zu_za
""".split()
FLEURS_NAME = dict(zip(_NAMES[::2], _NAMES[1::2], strict=True))


def prepare_fleurs(
    corpus_dir: str | Path,
    data_dir: str | Path,
    audio_dir: str | Path,
    langs: Sequence[str] = ("deu", "eng", "fra", "ita"),
    st_pairs: Sequence[str] = ("all-all",),
    min_seconds: float = 0.1,
    max_seconds: float = 30.0,
    audio_format: str = "flac",
    nj: int = 1,
    text: str = "cased",
    download: bool = False,
) -> dict[str, Any]:
    """Write ``train``, ``dev`` and ``test``.

    A sentence that several people read serves several times. Its translation is the sentence of the same number in the
    other language's list of the same set.

    Args:
        corpus_dir: what lhotse downloads, ``<language>/{train,dev,test}/*.wav`` and ``metadata/<language>/*.tsv``, or
            the directory above it.
        data_dir: gets the data directories.
        audio_dir: gets the audio that is not at 16 kHz already.
        langs: spoken languages (ISO 639-3).
        st_pairs: translations, ``source-target``; ``all`` stands for every spoken language.
        min_seconds, max_seconds: shorter and longer recordings are left out.
        audio_format: ``flac`` or ``wav``.
        nj: threads and processes.
        text: ``cased`` (with punctuation) or ``normalised`` (lower case, without).
        download: fetch the languages into ``corpus_dir`` first.

    Returns, Raises:
        As :func:`local.manifests.datadirs.prepare`.
    """
    langs = check_langs(langs, FLEURS_NAME)
    pairs = parse_pairs(st_pairs, langs, FLEURS_NAME)
    if text not in CHOICES["text"]:
        raise ValueError(f"text must be one of {', '.join(CHOICES['text'])}, got {text!r} (--text)")
    every = sorted({*langs, *(target for _, target in pairs)})  # languages that are only translated into are read too
    if download:
        download_fleurs(corpus_dir, every)
    places = Places(Path(corpus_dir), Path(data_dir), Path(audio_dir), min_seconds, max_seconds, audio_format, nj)

    def read() -> tuple[Sets, dict[str, Counter[str]]]:
        root = find_root(places.corpus_dir, every)
        names = [FLEURS_NAME[lang] for lang in every]
        found = fleurs.prepare_fleurs(root, places.manifests, names, num_jobs=nj)
        sets, dropped = {}, {}
        for name in SETS:
            by_lang = {lang: found[FLEURS_NAME[lang]][name] for lang in every}
            texts = {lang: _sentences(manifests, text) for lang, manifests in by_lang.items()}
            parts = [_with_translations(by_lang[lang], lang, texts) for lang in langs]
            sets[name], dropped[name] = join(parts)
        return sets, dropped

    return prepare("fleurs", places, pairs, {"langs": langs, "text": text}, read)


def download_fleurs(corpus_dir: str | Path, langs: Sequence[str]) -> None:
    """Fetch languages through lhotse, which has the package ``datasets`` run the script that FLEURS is on the hub.

    Raises:
        ValueError: where the installed ``datasets`` runs no scripts.
        ImportError: where there is none.
    """
    try:
        fleurs.download_fleurs(corpus_dir, [FLEURS_NAME[lang] for lang in langs])
    except ImportError:
        raise ImportError(f"lhotse downloads FLEURS with the package datasets: pip install '{DATASETS}'") from None
    except (RuntimeError, ValueError) as error:
        if "script" not in str(error) and "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"FLEURS is a script on the hub, which this version of the package datasets does not run "
            f"({' '.join(str(error).split())[:100]}): pip install '{DATASETS}'"
        ) from None


def find_root(corpus_dir: Path, langs: Sequence[str]) -> Path:
    """The directory that holds ``metadata``: ``corpus_dir`` or its ``fleurs``.

    Raises:
        ValueError: if it is neither, or a language is missing (lhotse would pass over it).
    """
    for root in (corpus_dir, corpus_dir / "fleurs"):
        if (root / "metadata").is_dir():
            break
    else:
        raise ValueError(f"{corpus_dir}: no FLEURS as lhotse downloads it (no {corpus_dir / 'metadata'})")
    for lang in langs:
        for part in (root / FLEURS_NAME[lang], root / "metadata" / FLEURS_NAME[lang]):
            if not part.is_dir():
                raise ValueError(f"{part}: no such directory: {lang} is not downloaded (--langs)")
    return root


def _number(segment: Any) -> str:
    """The number of a sentence, the same in all languages: lhotse's ids begin with it."""
    return str(segment.id).split("_")[0]


def _text(segment: Any, style: str) -> str:
    return str(segment.custom["raw_text"] if style == "cased" else segment.text)


def _sentences(manifests: Any, style: str) -> dict[str, str]:
    """Number of the sentence → its text."""
    return {_number(segment): _text(segment, style) for segment in manifests["supervisions"]}


def _with_translations(manifests: Any, lang: str, texts: dict[str, dict[str, str]]) -> Any:
    """One language's manifests, its recordings named apart from other languages'."""
    recordings = [replace(recording, id=f"{lang}.{recording.id}") for recording in manifests["recordings"]]
    segments = []
    for segment in manifests["supervisions"]:
        number = _number(segment)
        translations = {target: found[number] for target, found in texts.items() if target != lang and number in found}
        segment = replace(segment, recording_id=f"{lang}.{segment.recording_id}")
        segments.append(canonical(segment, lang, texts[lang][number], translations, passage=number))
    return {"recordings": recordings, "supervisions": segments}


if __name__ == "__main__":
    sys.exit(run(prepare_fleurs, langs=tuple(FLEURS_NAME)))
