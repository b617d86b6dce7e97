#!/usr/bin/env bash
# The embedded corpus: German, French and Italian speech from a synthesiser, recognised and translated into English.
#   ./run.sh                  from nothing to the table of results on 2 CPU cores
#   ./run.sh --scale large_test after that: its control and its gated model on twelve times as many utterances
#   ./run.sh --scale noisy_test the same models on the same utterances in more noise than training had
#   ./run.sh --scale seeds    after both: control and gated model with two other seeds, on that set
#   ./run.sh --scale ablation after the first: gated fine-tuning with other predictors, and one model for one sparsity
#   ./run.sh --scale smoke    every stage on a handful of utterances, a few minutes; its scores mean nothing
#   ./run.sh --scale base     the same corpus, models of OWSM v3.1 base's shape, on one GPU
# All other options go to s2t.sh (./s2t.sh --help), behind the recipe's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# steps N LR: four epochs of N steps, the learning rate rising over 50 steps and then falling to nearly 0
steps() {
    echo "--num_iters_per_epoch $1 --optim_conf lr=$2 --scheduler_conf warmup_steps_list=[0,50,$((4 * $1 + 10))]" \
        "--scheduler_conf warmup_lr_list=[0.0,$2,0.00001]"
}

# every sixth utterance is decoded alone, for its latency, and the others in batches
timed="--batch_size 32 --latency_every 6"
# of decoding: intermediate CTC helps in training, nobody asks for its words; FLOPs of every n-th utterance
measured="--interctc false --measure_nll true --measure_flops true --flops_every"
# of the recipe's models
models=(--nbpe 1000 --dense_args "--model_conf ctc_weight=0.5")

# Differences of a thousandth of the words can be told from chance here. Decoded in batches: its times are no latencies.
large_test=(
    "${models[@]}"
    --test_sets test_large
    --systems "control gated fixed control+ctc gated+ctc"
    --sparsities "0.0 0.0,0.5 0.3,0.5 0.5 0.7"
    --baseline_sparsities "0.0,0.5 0.5 0.7"
    --inference_nj 2
    --inference_args "--batch_size 32 ${measured} 500"
)

# the models that are compared with each other, where they were trained to be good
compared=(--systems "control gated control+ctc gated+ctc" --sparsities "0.0 0.0,0.5 0.3,0.5 0.5")

# recipe OPTIONS…: the stages of s2t.sh on this corpus
recipe() {
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
        --local_data_opts "${data_opts}" \
        --s2t_config conf/train_s2t_dense.yaml \
        --gated_config conf/train_s2t_gated.yaml \
        --control_config conf/train_s2t_control.yaml \
        --inference_config conf/decode_s2t.yaml \
        --inference_s2t_model valid.loss.best.pth \
        "$@"
}

# ablate NAME SPARSITIES STEPS OPTIONS…: gated fine-tuning with other options, from the dense model of ./run.sh and in its
# tables as gated_NAME; STEPS for each of four epochs, as many as fill the minutes of the control.
ablate() {
    OMP_NUM_THREADS=1 recipe --nbpe 1000 --stage 4 --stop_stage 9 --train_nj 1 --dense_exp exp/s2t_dense --systems gated \
        --tag "$1" --gated_name "gated_$1" --sparsities "$2" --gated_args "$(steps "$3" 0.003) ${*:4}" \
        --inference_args "${timed} ${measured} 40" "${options[@]}" > >(sed -u "s/^/$1: /") 2> >(sed -u "s/^/$1: /" >&2)
}

# refuse NAME…: options that this scale gives itself
refuse() {
    local item flag
    for item in "${options[@]}"; do
        flag=${item%%=*}
        [[ " ${*/#/__} " != *" ${flag//-/_} "* ]] || {
            echo "run.sh: --scale ${scale} gives each of its trainings a ${flag} of its own: leave it out" >&2
            exit 2
        }
    done
}

# side_by_side NAME SPARSITIES STEPS OPTIONS NAME …: two of them, on a core each
side_by_side() {
    local beside code=0
    ablate "${@:1:4}" &
    beside=$!
    ablate "${@:5}" || code=$?
    wait "${beside}" || code=$?
    [ "${code}" -eq 0 ] || exit "${code}"
}

scale=full
data_opts="--scale full"
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --scale) scale=${2:?"--scale needs a value: full, large_test, noisy_test, seeds, ablation, smoke or base"} && shift 2 ;;
        --help | -h) sed -n '2,/^set/ s/^# \{0,1\}//p' run.sh && exec ./s2t.sh --help ;;
        *) options+=("$1") && shift ;;
    esac
done

case "${scale}" in
    smoke) data_opts="--scale smoke" ;;
    large_test | seeds) data_opts+=" --large_test 1500" ;;
    noisy_test) data_opts+=" --large_test 1500 --noisy_test 10,20" ;;
esac

# of several trainings: what tells them apart is not the caller's to say
case "${scale}" in
    seeds) refuse seed expdir ;;
    ablation) refuse tag gated_name systems ;;
esac

case "${scale}" in
    full)
        scale_options=(
            "${models[@]}"
            --systems "espnet dense control gated fixed random learned dense+ctc control+ctc gated+ctc"
            --sparsities "0.0 0.0,0.5 0.5,0.0 0.7,0.0 0.3,0.5 0.5 0.7"
            --baseline_sparsities "0.0,0.5 0.5 0.7"
            --ctc_sparsities "0.0 0.0,0.5 0.3,0.5 0.5 0.7"
            --inference_nj 2 # every system alike: two decoders of one thread each
            --inference_args "${timed} ${measured} 40"
        )
        ;;
    large_test)
        scale_options=("${large_test[@]}")
        ;;
    noisy_test)
        scale_options=("${large_test[@]}" "${compared[@]}" --test_sets test_noisy)
        ;;
    seeds)
        # Stage 6 again from the recipe's dense model: how much of a difference between two trainings is chance? Beside
        # the recipe's own (after --scale large_test): python -m espnet_gated.bin.seeds --expdirs exp seeds/2/exp seeds/3/exp
        for seed in 2 3; do
            recipe "${large_test[@]}" "${compared[@]}" --test_sets "test test_large" \
                --stage 4 --seed "${seed}" --dense_exp exp/s2t_dense --expdir "seeds/${seed}/exp" "${options[@]}"
        done
        exit
        ;;
    ablation)
        all="0.0 0.0,0.5 0.3,0.5 0.5 0.7"
        # The checkpoint is chosen by the loss on dev at a stack's own target.
        half="--decoder_conf gating.target_sparsity=0.5 --encoder_conf gating.target_sparsity"
        # One sparsity, beside the open model that teaches it …
        one="--encoder_conf gating.anchors=[] --model_conf joint_targets"
        # … and as published: Gumbel-Softmax gates and a sparsity loss for each utterance, nothing else.
        published="--model_conf joint_targets=[] --model_conf targets_per=utterance --model_conf distill_decoders=0.0"
        published+=" --model_conf distill_decoders_alone=false --model_conf context_dropout=0.1 --encoder_conf gating.module_prior={}"
        for option in "condition_on=[features,context,sparsity]" sampler=gumbel anchors=[] prior=0.0 freeze_steps=0 anneal_steps=1400 warmup_steps=400 gate_speed=1.0; do
            published+=" --encoder_conf gating.${option} --decoder_conf gating.${option}"
        done
        see="gating.condition_on"
        side_by_side features "${all}" 1290 "--encoder_conf ${see}=[features,sparsity] --decoder_conf ${see}=[features,sparsity]" \
            both "${all}" 1290 "--encoder_conf ${see}=[features,context,sparsity] --decoder_conf ${see}=[features,context,sparsity]"
        # One mask for everyone from the start; contexts that are dropped, as is usual.
        side_by_side one_mask "${all}" 1290 "--encoder_conf ${see}=[sparsity] --decoder_conf ${see}=[sparsity]" \
            dropped "${all}" 1290 "--model_conf context_dropout=0.1"
        side_by_side one_decoder 0.0,0.5 1035 "${one}=[[0.0,[0.0,0.5],1.0]] ${half}=0.0" \
            one_both 0.5 1370 "${one}=[[0.0,[0.0,0.5],0.3],[0.5,0.5,0.7]] ${half}=0.5"
        side_by_side published_decoder 0.0,0.5 1085 "${published} ${half}=0.0" published_both 0.5 1085 "${published} ${half}=0.5"
        recipe --nbpe 1000 "${options[@]}" --stage 10 # whichever stage the trainings were asked to begin with
        exit
        ;;
    smoke)
        scale_options=(
            --nbpe 200
            --num_stats_utts 40
            --s2t_args "--max_epoch 1 --num_iters_per_epoch 20 --batch_size 8 --valid_batch_size 12"
            --systems "espnet dense control gated learned gated+ctc"
            --sparsities "0.0 0.5"
            --baseline_sparsities 0.5
            --ctc_sparsities 0.5
            --inference_args "--batch_size 8 --latency_every 2 ${measured} 10 --maxlenratio -15" # 15 tokens: these models never end
            --datadir smoke/data --dumpdir smoke/dump --expdir smoke/exp
        )
        ;;
    base)
        export TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 # float32 products of training on the GPU's matrix units
        shape="--frontend_conf hop_length=160 --frontend_conf n_mels=80"
        for option in output_size=384 attention_heads=6 input_layer=conv2d num_blocks=6 linear_units=1536 \
            cgmlp_linear_units=1536 cgmlp_conv_kernel=31 merge_conv_kernel=31; do
            shape+=" --encoder_conf ${option}"
        done
        for option in attention_heads=6 num_blocks=6 linear_units=1536; do shape+=" --decoder_conf ${option}"; done
        # As measured on a GPU (docs/experiments.md): no intermediate CTC, both decoders learn from the labels, the whole
        # encoder teaches the pruned one, masks see the features too, no (0.7, 0.7).
        shape+=" --encoder_conf interctc_layer_idx=[] --model_conf interctc_weight=0.0"
        labels="--model_conf distill_decoders_alone=false --model_conf distill_encoder=2.0 --model_conf context_dropout=0.1"
        for stack in encoder decoder; do labels+=" --${stack}_conf gating.condition_on=[features,context,sparsity]"; done
        labels+=" --model_conf joint_targets=[[0.0,[0.0,0.5],0.7],[0.3,0.5,0.2],[0.5,0.5,0.05]]"
        scale_options=(
            --nbpe 1000
            --ngpu 1
            --s2t_args "${shape} --batch_size 64 --num_workers 3"
            --dense_args "$(steps 175 0.002)"
            --gated_args "$(steps 350 0.0015) ${labels} --encoder_conf gating.nominal_length=60 --decoder_conf gating.nominal_length=33 --decoder_conf gating.nominal_memory=60"
            --control_args "$(steps 525 0.0015)"
            --train_nj 2 # gated fine-tuning and its control, beside each other on the GPU
            --gpu_inference true
            --inference_nj 1
            --inference_args "--batch_size 16 ${measured} 40"
            --systems "dense control gated"
            --sparsities "0.0 0.0,0.5 0.3,0.5 0.5 0.7"
            --expdir base/exp
        )
        ;;
    *) echo "run.sh: --scale must be full, large_test, noisy_test, seeds, ablation, smoke or base, got '${scale}'" >&2 && exit 2 ;;
esac

recipe "${scale_options[@]}" "${options[@]}"
