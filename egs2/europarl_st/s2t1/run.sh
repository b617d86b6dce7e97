#!/usr/bin/env bash
# Europarl-ST v1.1, the published setting: German, French and Italian speeches, recognised and translated into English.
#   ./run.sh --corpus_dir /data/europarl_st --init_model espnet/owsm_v3.1_ebf_base --ngpu 1
#   ./run.sh --scale smoke           every stage on a miniature corpus, a few minutes; its scores mean nothing
#   ./run.sh --setting published …   one model for each sparsity, as in the paper: 27 more trainings
# All other options go to s2t.sh (./s2t.sh --help).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scale=full                          # full or smoke
corpus_dir=downloads/europarl_st    # holds v1.1; fetched (20 GB) with --download true
download=false
init_model=                         # public model to start from: a folder or a tag; none: from scratch
setting=one                         # one model for all sparsities, or published: also one model for each
langs="deu fra ita"
tasks="asr st_eng"
own_options="scale corpus_dir download init_model setting"
. utils/published_corpus.sh
use_scale --langs "${langs// /+}" --download "${download}"
use_init_model

levels="0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9"
[ "${scale}" = full ] || levels=0.5
points=0.0
for level in ${levels}; do points+=" ${level},0.0 0.0,${level} ${level}"; done

# s2t OPTIONS…: s2t.sh with the recipe's options; those given here win
s2t() {
    ./s2t.sh \
        --corpus europarl_st \
        --train_set train \
        --valid_set dev \
        --test_sets test \
        --langs "${langs}" \
        --tasks "${tasks}" \
        --token_args "--time_resolution 30.0" \
        --nj 4 \
        --sparsities "${points}" \
        --gated_args "--encoder_conf gating.target_sparsity=[0.0,0.9] --decoder_conf gating.target_sparsity=[0.0,0.9]" \
        --control_args " " \
        "${options[@]}" "$@"
}

case "${setting}" in
    one) s2t ;;
    published)
        s2t
        expdir=$(option expdir exp)
        for level in ${levels}; do
            for point in "${level},0.0" "0.0,${level}" "${level},${level}"; do
                tag="target_${point//,/_}"
                ln -sfn s2t_stats "${expdir}/s2t_stats_${tag}"
                s2t --stage 6 --stop_stage 8 --tag "${tag}" --dense_exp "${expdir}/s2t_dense" --systems gated --sparsities "${point}" \
                    --gated_args "--encoder_conf gating.target_sparsity=${point%,*} --decoder_conf gating.target_sparsity=${point#*,}"
            done
        done
        s2t --stage 10
        ;;
    *) die "--setting must be one or published, got '${setting}'" ;;
esac
