#!/usr/bin/env bash
# MuST-C: English TED talks, recognised and translated into German (or any of the corpus' languages).
#   ./run.sh --corpus_dir /data/must-c --tgt_langs "deu fra" --init_model espnet/owsm_v3.1_ebf_base --ngpu 1
#   ./run.sh --scale smoke    every stage on a miniature corpus, a few minutes; its scores mean nothing
# All other options go to s2t.sh (./s2t.sh --help).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scale=full                    # full or smoke
corpus_dir=downloads          # holds en-de, en-fr, …
init_model=                   # public model to start from: a folder or a tag; none: from scratch
tgt_langs="deu"
own_options="scale corpus_dir init_model tgt_langs"
. utils/published_corpus.sh
langs=eng
tasks=asr
pairs=
for lang in ${tgt_langs}; do tasks+=" st_${lang}" pairs+="${pairs:++}eng-${lang}"; done
use_scale --st_pairs "${pairs}"
use_init_model

./s2t.sh \
    --corpus must_c \
    --train_set train \
    --valid_set dev \
    --test_sets "tst-COMMON tst-HE" \
    --langs "${langs}" \
    --tasks "${tasks}" \
    --token_args "--time_resolution 30.0" \
    --nj 4 \
    --gated_args "--encoder_conf gating.target_sparsity=[0.0,0.9] --decoder_conf gating.target_sparsity=[0.0,0.9]" \
    --control_args " " \
    "${options[@]}"
