#!/usr/bin/env bash
# Real people: the telephone prompts of Asterisk in five languages, recognised in each and translated between them.
#   ./run.sh                       start from the encoder of the mini recipe (make mini, or its stages 1 to 5, comes first)
#   ./run.sh --mini_model FILE     … from this checkpoint of it; none: from scratch
# All other options go to s2t.sh (./s2t.sh --help).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

mini_model=../../mini/s2t1/exp/s2t_dense/valid.loss.best.pth
dense_args=()
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --mini_model) mini_model=${2:?"--mini_model needs a value: a checkpoint, or none"} && shift 2 ;;
        --help | -h) sed -n '2,/^set/ s/^# \{0,1\}//p' run.sh && exec ./s2t.sh --help ;;
        *) options+=("$1") && shift ;;
    esac
done
if [ "${mini_model}" != none ]; then
    [ -f "${mini_model}" ] || {
        echo "run.sh: no such file: ${mini_model} (--mini_model); 'make mini' makes it, none starts from scratch" >&2
        exit 2
    }
    dense_args=(--dense_args "--init_param ${mini_model}:encoder:encoder")
fi

# Forty minutes of real speech are too little to learn five languages from: README.md says what each addition is.
additions="--speeds 0.9,0.95,1.05,1.1 --joined 1500 --synth_voices 4 --synth_spans 2000 --synth_guide 5000 --natural 0.6"

# No row of ESPnet's search: it cannot leave CTC out of translation, and counts the primer in recognition.
# Audio of at most 3.7 s, with 0.3 s of silence put in front in training, fits into the 4 s of the configurations.
./s2t.sh \
    --corpus asterisk \
    --train_set train \
    --valid_set dev \
    --test_sets "test test_unseen_spk" \
    --langs "eng spa fra ita rus" \
    --tasks "asr st_eng st_spa st_fra st_ita st_rus" \
    --nbpe 300 \
    --token_args "--time_resolution 30.0" \
    --nj 2 \
    --train_nj 2 \
    --matmul_precision auto \
    --local_data_opts "--max_seconds 3.7 ${additions}" \
    --s2t_config conf/train_s2t_dense.yaml \
    --gated_config conf/train_s2t_gated.yaml \
    --control_config conf/train_s2t_control.yaml \
    --inference_config conf/decode_s2t.yaml \
    --systems "dense control gated" \
    --sparsities "0.0 0.0,0.5 0.3,0.5" \
    --inference_nj 2 \
    --inference_args "--measure_nll true --measure_flops true --flops_every 40" \
    "${dense_args[@]}" "${options[@]}"
