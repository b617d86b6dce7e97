#!/usr/bin/env bash
# FLEURS: the same sentences read in every language, recognised in each and translated from any into any.
#   ./run.sh --download true --langs "deu eng fra ita" --init_model espnet/owsm_v3.1_ebf_base --ngpu 1
#   ./run.sh --scale smoke    every stage on a miniature corpus, a few minutes; its scores mean nothing
# All other options go to s2t.sh (./s2t.sh --help).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scale=full                    # full or smoke
corpus_dir=downloads          # holds fleurs, as lhotse downloads it
download=false                # let lhotse fetch the languages (needs a package: pip install 'datasets>=2.19,<3')
init_model=                   # public model to start from: a folder or a tag; none: from scratch
langs="deu eng fra ita"       # any of FLEURS' 102 (ISO 639-3)
own_options="scale corpus_dir download init_model langs"
. utils/published_corpus.sh
tasks="asr"
for lang in ${langs}; do tasks+=" st_${lang}"; done
use_scale --langs "${langs// /+}" --download "${download}"
use_init_model

./s2t.sh \
    --corpus fleurs \
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
