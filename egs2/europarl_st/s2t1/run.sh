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
levels="0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9"
[ "${scale}" = full ] || levels=0.5
points=0.0 # encoder only, decoder only, both
for level in ${levels}; do points+=" ${level},0.0 0.0,${level} ${level}"; done
use_scale --langs "${langs// /+}" --download "${download}"
use_init_model

# s2t OPTIONS…: s2t.sh with the recipe's options; those given here win, or come behind them
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
        # The other models share the data, the statistics and the dense model of the first; stages 6 to 8 are theirs.
        expdir=$(option expdir exp)
        tag=$(option tag "")
        suffix=${tag:+_${tag}}
        first=$(option stage 1)
        last=$(option stop_stage 10)
        [ "${first}" -le 8 ] && [ "${last}" -ge 6 ] || levels=
        for level in ${levels}; do
            for point in "${level},0.0" "0.0,${level}" "${level},${level}"; do
                target="target_${point//,/_}"
                ln -sfn "s2t_stats${suffix}" "${expdir}/s2t_stats${suffix}_${target}"
                s2t --stage $((first > 6 ? first : 6)) --stop_stage $((last < 8 ? last : 8)) --tag "${tag:+${tag}_}${target}" \
                    --dense_exp "$(option dense_exp "${expdir}/s2t_dense${suffix}")" --systems gated --gated_name gated_single \
                    --sparsities "${point}" \
                    --gated_args "--encoder_conf gating.target_sparsity=${point%,*} --decoder_conf gating.target_sparsity=${point#*,}"
            done
        done
        s2t --stage 10
        ;;
    *) die "--setting must be one or published, got '${setting}'" ;;
esac
