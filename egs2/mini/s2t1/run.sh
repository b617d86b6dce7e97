#!/usr/bin/env bash
# The embedded corpus: German, French and Italian speech from a synthesiser, recognised and translated into English.
#   ./run.sh                  from nothing to the table of results on 2 CPU cores
#   ./run.sh --scale smoke    every stage on a handful of utterances, a few minutes; its scores mean nothing
# All other options go to s2t.sh (./s2t.sh --help).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scale=full
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --scale) scale=${2:?"--scale needs a value: full or smoke"} && shift 2 ;;
        *) options+=("$1") && shift ;;
    esac
done

case "${scale}" in
    full)
        scale_options=(
            --nbpe 1000
            --systems "espnet dense control gated fixed random dense+ctc control+ctc gated+ctc"
            --sparsities "0.0 0.0,0.5 0.3,0.5 0.5 0.7"
            --baseline_sparsities "0.0,0.5 0.5 0.7"
            --ctc_sparsities "0.0 0.0,0.5 0.3,0.5 0.5"
            --inference_nj 2 # every system alike: two decoders of one thread each
            --inference_args "--measure_flops true --flops_every 40"
        )
        ;;
    smoke)
        scale_options=(
            --nbpe 200
            --num_stats_utts 40
            --s2t_args "--max_epoch 1 --num_iters_per_epoch 20 --batch_size 8 --valid_batch_size 12"
            --systems "espnet dense control gated gated+ctc"
            --sparsities "0.0 0.5"
            --ctc_sparsities 0.5
            --inference_args "--measure_flops true --flops_every 10 --maxlenratio -15" # 15 tokens: these models never end
            --datadir smoke/data --dumpdir smoke/dump --expdir smoke/exp
        )
        ;;
    *) echo "run.sh: --scale must be full or smoke, got '${scale}'" >&2 && exit 2 ;;
esac

./s2t.sh \
    --corpus mini \
    --train_set train \
    --valid_set dev \
    --test_sets test \
    --langs "deu fra ita" \
    --tasks "asr st_eng" \
    --token_args "--time_resolution 30.0" \
    --filter_args "--max_chars_per_second 60" \
    --nj 2 \
    --train_nj 2 \
    --matmul_precision auto \
    --local_data_opts "--scale ${scale}" \
    --s2t_config conf/train_s2t_dense.yaml \
    --gated_config conf/train_s2t_gated.yaml \
    --control_config conf/train_s2t_control.yaml \
    --inference_config conf/decode_s2t.yaml \
    "${scale_options[@]}" "${options[@]}"
