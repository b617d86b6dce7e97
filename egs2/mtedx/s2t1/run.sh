#!/usr/bin/env bash
# Multilingual TEDx: talks in Spanish, French, Portuguese and Italian, recognised and translated into English.
#   ./run.sh --corpus_dir /data/mtedx --init_model espnet/owsm_v3.1_ebf_base --ngpu 1
#   ./run.sh --scale smoke    every stage on a miniature corpus, a few minutes; its scores mean nothing
# All other options go to s2t.sh (./s2t.sh --help).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scale=full                    # full or smoke
corpus_dir=downloads          # holds es-es, es-en, …
download=false                # fetch what is needed into corpus_dir
init_model=                   # public model to start from: a folder or a tag; none: from scratch
langs=                        # default: "spa fra por ita" (smoke: "fra ita")
tgt_langs="eng"               # each is translated from every spoken language
own_options="scale corpus_dir download init_model langs tgt_langs"
. utils/published_corpus.sh
[ "${scale}" = smoke ] && : "${langs:=fra ita}"
: "${langs:=spa fra por ita}"
tasks=asr
pairs=
for lang in ${tgt_langs}; do tasks+=" st_${lang}" pairs+="${pairs:++}all-${lang}"; done
[ -n "${pairs}" ] || die "at least one language to translate into, please (--tgt_langs); for recognition alone: local/prepare_mtedx.py --st_pairs"
use_scale --langs "${langs// /+}" --st_pairs "${pairs}" --download "${download}"
use_init_model

./s2t.sh \
    --corpus mtedx \
    --train_set train \
    --valid_set dev \
    --test_sets test \
    --langs "${langs}" \
    --tasks "${tasks}" \
    --token_args "--time_resolution 30.0" \
    --nj 4 \
    --gated_args "--encoder_conf gating.target_sparsity=[0.0,0.9] --decoder_conf gating.target_sparsity=[0.0,0.9]" \
    --control_args " " \
    "${options[@]}"
