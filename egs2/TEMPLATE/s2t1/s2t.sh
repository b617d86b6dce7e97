#!/usr/bin/env bash
# Gated speech-to-text, from data to the table of results. Needs only the pip-installed espnet and espnet_gated.
# Run it from a recipe's directory (egs2/<corpus>/s2t1), as that recipe's run.sh does.
set -euo pipefail
{ # bash reads all of it before it runs any of it: the file may be edited meanwhile

# General
stage=1              # first stage
stop_stage=10        # last stage
skip_stages=         # stages to leave out, such as "3 4"
ngpu=0               # GPUs for training (0: CPU)
train_nj=1           # processes of training on CPU: data-parallel; gated fine-tuning and its control share them
nj=1                 # processes of data preparation
inference_nj=1       # processes of decoding (1 where latency matters)
gpu_inference=false  # decode on a GPU
matmul_precision=highest # of training on CPU; bfloat16: mixed precision; auto: the faster of the two here
python=python3
seed=1
datadir=data
dumpdir=dump
expdir=exp
tag=                 # suffix of the names of the experiments

# Data
corpus=              # name in the table of results
train_set=
valid_set=
test_sets=           # one or more
langs=               # ISO 639-3 codes of the spoken languages, such as "deu fra ita"
tasks=               # such as "asr st_eng"
local_data_opts=     # options of local/data.sh
filter_args=         # limits of lengths, for filtering and checking; "--decode false" looks at heads of audio files only
max_dropped=         # share of a set that filtering may drop (default: of bin.filter_data)
nbpe=1000
token_args=          # options of bin.tokenize, such as "--time_resolution 30.0" for no time symbols between
token_dir=           # existing bpe.model and tokens.txt (of a public model); stage 3 only checks
num_stats_utts=1000  # utterances for the statistics of the features (all: every one)

# Models
s2t_config=conf/train_s2t_dense.yaml
gated_config=conf/train_s2t_gated.yaml
control_config=conf/train_s2t_control.yaml
s2t_args=            # options of ESPnet's trainer, for every training
dense_args=          # … for the dense one
gated_args=          # … for gated fine-tuning
control_args=        # … for the control (default: gated_args; where those are about gates too, to be given: " " for none)
dense_exp=           # an existing dense experiment, in place of stage 5
inference_s2t_model=valid.acc.best.pth # the checkpoint for decoding; of the dense one also for fine-tuning

# Decoding
systems="espnet dense control gated" # also fixed, random: baselines of the gated checkpoint; learned: its budget on average; dense+ctc, control+ctc, gated+ctc
gated_name=gated     # of the gated model in the tables: models that are decoded at the same sparsities need different ones
sparsities="0.0 0.3 0.5 0.7" # items: one number, or encoder,decoder
baseline_sparsities="0.5 0.7" # of fixed, random and learned
ctc_sparsities=      # of gated+ctc (default: sparsities)
ctc_args="--ctc_weight 0.3 --ctc_tasks asr --ctc_rescoring true" # of the systems with +ctc
inference_config=conf/decode_s2t.yaml
inference_args="--measure_nll true --measure_flops true --flops_every 10"
inference_tag=       # suffix of the names of the decoding directories

help_message="Usage: $0 --corpus <name> --train_set <name> --valid_set <name> --test_sets <names> --langs <codes> --tasks <tasks>
Stages: 1 data  2 filter and check  3 token list  4 statistics  5 dense training  6 gated fine-tuning (with its thresholds) and control
        7 decoding  8 scoring  9 speed, FLOPs, budgets  10 results
Finished work is skipped unless its inputs or options have changed. Options that hold options (--…_args, --local_data_opts) add up when
they are given more than once: yours come behind those of a recipe's run.sh. Options and their defaults:
$(sed -nE '/^help_message/q; s/^([a-z_][a-z0-9_]*)=(.*)$/    --\1 \2/p' "$0")"

adding_up="local_data_opts filter_args token_args s2t_args dense_args gated_args control_args ctc_args inference_args"
. utils/parse_options.sh
. utils/steps.sh
. utils/trainer_options.sh
. utils/decoding.sh
. ./path.sh

for option in corpus train_set valid_set test_sets langs tasks; do
    [ -n "${!option}" ] || die "--${option} is needed (see --help)"
done
for item in ${sparsities} ${baseline_sparsities} ${ctc_sparsities}; do
    [[ ${item} =~ ^0(\.[0-9]+)?(,0(\.[0-9]+)?)?$ ]] || die "sparsity must be in [0, 1), got ${item} (--sparsities)"
done
[[ ${gated_name} =~ ^gated[a-z0-9_]*$ ]] || die "the name must be gated, or begin so and go on with a-z, 0-9 or _, got '${gated_name}' (--gated_name)"
for option in dumpdir expdir token_dir dense_exp; do # such names go through lists of words
    [[ ${!option} != *[[:space:]]* ]] || die "no white space, please: '${!option}' (--${option})"
done
needs_gated=false needs_control=false
for item in ${systems}; do
    case "${item}" in
        gated | gated+ctc | fixed | random | learned) needs_gated=true ;;
        control | control+ctc) needs_control=true ;;
    esac
done
for item in s2t gated control inference; do
    needed=needs_${item}
    [ "${!needed:-true}" = true ] || continue
    file=${item}_config
    [ -f "${!file}" ] || die "--${file}: no such file: ${!file}"
done

suffix=${tag:+_${tag}}
raw="${dumpdir}/raw"
given_token_dir=${token_dir}
given_tokens=()
[ -z "${token_dir}" ] || given_tokens=("${token_dir}/tokens.txt" "${token_dir}/bpe.model")
: "${token_dir:=${dumpdir}/token_list/bpe${nbpe}}"
stats_dir="${expdir}/s2t_stats${suffix}"
given_dense_exp=${dense_exp}
: "${dense_exp:=${expdir}/s2t_dense${suffix}}" "${control_args:=${gated_args}}"
if [ "${needs_control}" = true ] && [ "${stage}" -le 6 ] && [ "${stop_stage}" -ge 6 ]; then
    gates=$(options_of_gates "${control_args}")
    [ -z "${gates}" ] || die "the control has no gates: '${gates}'. Say which of --gated_args are for it too (--control_args; \" \" for none)"
fi
dense_dir=${dense_exp}
[[ ${dense_exp} = "${expdir}"/* ]] || dense_dir="${expdir}/s2t_dense${suffix}"
gated_exp="${expdir}/s2t_gated${suffix}"
control_exp="${expdir}/s2t_control${suffix}"
# sed script: what is shown of a training while it runs: means of the steps up to every hundredth, where log_interval divides
# 100; after each epoch its results, and ESPnet's estimate of the time left
epoch_lines='s/.*INFO: (The training was finished.*|The training was resumed.*|Niter: .*|.*epoch started\. Estimated .*)/\1/p
/epoch:train:[0-9]+-[0-9]*00batch:/ s/.*INFO: ([^ ]+).*,( loss=[^,]+).*(, train_time=[^,]+).*/\1\2\3/p
/epoch results:/ {
    s/.*INFO: //; s/[a-z_0-9]*=nan, //g; s/(, )?total_count=[0-9]*(, )?/ /g
    s/(iter_time|forward_time|backward_time|optim_step_time|train_time|grad_norm|clip|loss_scale|optim0_lr0)=[^,]*, //gp
}'
trap 'kill -TERM 0' INT # background decoders do not see Ctrl-C

in_stage() { [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] && [[ " ${skip_stages} " != *" $1 "* ]]; }

# check SET TOKEN_LIST OPTIONS…: all problems of a data directory are in the log, the last are shown. Training wants audio
# at the model's rate; what is only decoded may be of any format.
check() {
    local any_format=true
    [[ " ${train_set} ${valid_set} " != *" $1 "* ]] || any_format=false
    # shellcheck disable=SC2086
    run "${dumpdir}/log/check_$1.log" '/: (no problems|[0-9]+ problem)/p' ${python} -m espnet_gated.bin.check_data "${raw}/$1" \
        ${2:+--token_list "$2"} --any_format "${any_format}" --nj "${nj}" ${filter_args} "${@:3}"
}

# The files of a set as words: what is made of it is made anew when they change, however often they were filtered.
set_files() {
    local file
    for file in "${raw}/$1"/{wav.scp,text,text.ctc,text.prev,utt2*,*.ark}; do
        [ ! -f "${file}" ] || echo "${file}"
    done
}

# copy_set FROM TO: the files of a directory; of an earlier copy's none stays that is not there any more.
copy_set() {
    local name
    [ ! -f "$2/.copied" ] || while read -r name; do rm -f "$2/${name}"; done <"$2/.copied"
    find -H "$1" -maxdepth 1 -xtype f ! -name '.*' -printf '%f\n' >"$2/.copied"
    while read -r name; do cp "$1/${name}" "$2"; done <"$2/.copied"
}

# all texts against the token list
check_tokens() {
    local dset
    # shellcheck disable=SC2046
    for dset in "${train_set}" "${valid_set}" ${test_sets}; do
        if begin "${raw}/${dset}" tokens_check "${token_dir}/tokens.txt" $(set_files "${dset}") "${filter_args}"; then
            check "${dset}" "${token_dir}/tokens.txt" --decode false
            finish
        fi
    done
}

# train PROCESSES DIR CONFIG INIT_PARAM ARGS: one training with ESPnet's trainer, resumed where it stopped.
train() {
    local processes=$1 dir=$2 config=$3 init=$4 args=$5 shapes named launcher=(-m espnet_gated -m)
    [ "${ngpu}" -gt 0 ] || launcher=(-m espnet_gated.bin.cpu_train --processes "${processes}")
    local -x ESPNET_GATED_MATMUL_PRECISION=${precision}
    # glibc otherwise gives memory back to the system, and asks for it again, at every step.
    local -x MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=536870912
    # Threads that spin while they wait starve the process that loads the data (and all others).
    local -x OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
    [ -f "${stats_dir}/.stats.done" ] || die "no statistics of the features in ${stats_dir} (stage 4)"
    shapes=$(shape_options "${config}" "${s2t_args} ${args}")
    mapfile -t named < <(initial_files "${s2t_args} ${args}" && data_files "${s2t_args} ${args}")
    if begin --aside "${dir}" train "${config}" "${s2t_args}" "${args}" "${seed}" "${matmul_precision}" \
        "${stats_dir}/.stats.done" ${init:+"${init%/*}/.train.done" "${init}"} "${named[@]}" "${given_tokens[@]}"; then
        log "Training ${dir} (log: ${dir}/train.log)"
        # shellcheck disable=SC2046,SC2086
        run "${dir}/train.log" "${epoch_lines}" ${python} "${launcher[@]}" espnet2.bin.s2t_train \
            --config "${config}" --ngpu "${ngpu}" \
            --multiprocessing_distributed "$([ "${ngpu}" -gt 1 ] && echo true || echo false)" --use_preprocessor true \
            --token_type bpe --bpemodel "${token_dir}/bpe.model" --token_list "${token_dir}/tokens.txt" \
            --normalize global_mvn --normalize_conf "stats_file=${stats_dir}/train/feats_stats.npz" \
            --seed "${seed}" --resume true --output_dir "${dir}" ${shapes} \
            $(data_options train "${train_set}") $(data_options valid "${valid_set}") \
            ${init:+--init_param "${init}"} ${s2t_args} ${args}
        finish
    fi
}

# refuse_unfinished DIR: a training of ours that was cut short has a key already; a model from elsewhere has neither.
refuse_unfinished() {
    [ ! -f "$1/.train.key" ] || [ -f "$1/.train.done" ] ||
        die "the training of $1 is not finished: stage 5 or 6 goes on with it (to take it as it is, remove $1/.train.key)"
}

# budget SET OPTIONS…: shares that the gated model skips of a set's utterances
budget() {
    # shellcheck disable=SC2086
    ESPNET_GATED_TYPE_CHECKS=${ESPNET_GATED_TYPE_CHECKS:-false} run "${gated_exp}/budget.log" \
        '/^(budget: .*|.*thresholds of the learned budget.*)$/p' ${python} -m espnet_gated.bin.budget \
        --data_dir "${raw}/$1" --s2t_model_file "${gated_exp}/${inference_s2t_model}" --ngpu "${inference_ngpu}" \
        ${padding} "${@:2}"
}

padding=$(padding_options)
# what the thresholds of the learned budget belong to, as words
calibration() {
    echo "${gated_exp}/.train.done" "${inference_s2t_model}" "${padding}"
    set_files "${valid_set}"
}
decodings=$(list_decodings)
refuse_rows_twice
! in_stage 10 || refuse_rows_of_other_tags
[ "${gpu_inference}" = true ] && inference_ngpu=1 || inference_ngpu=0

if in_stage 1; then
    log "Stage 1: data"
    # shellcheck disable=SC2086
    PYTHON="${python%% *}" run "${dumpdir}/log/data.log" p local/data.sh --data_dir "${datadir}" --nj "${nj}" ${local_data_opts}
fi

if in_stage 2; then
    log "Stage 2: filter (training and validation) and check (all sets)"
    for dset in "${train_set}" "${valid_set}" ${test_sets}; do
        if begin "${raw}/${dset}" filter "${datadir}/${dset}"/{wav.scp,text,text.ctc,text.prev,utt2*,*.ark} \
            "${filter_args}"; then
            heads=() # all audio is decoded once
            # shellcheck disable=SC2086
            if [[ " ${train_set} ${valid_set} " = *" ${dset} "* ]]; then
                run "${dumpdir}/log/filter_${dset}.log" p ${python} -m espnet_gated.bin.filter_data \
                    --in_dir "${datadir}/${dset}" --out_dir "${raw}/${dset}" \
                    ${max_dropped:+--max_dropped "${max_dropped}"} --nj "${nj}" ${filter_args}
                heads=(--decode false)
            else
                copy_set "${datadir}/${dset}" "${raw}/${dset}"
            fi
            check "${dset}" "" "${heads[@]}"
            finish
        fi
    done
fi

if in_stage 3; then
    log "Stage 3: token list"
    if [ -z "${given_token_dir}" ] && begin "${token_dir}" tokens "${raw}/${train_set}"/{text,text.ctc} "${nbpe}" "${langs}" "${tasks}" "${token_args}"; then
        # shellcheck disable=SC2086
        run "${token_dir}/tokenize.log" p ${python} -m espnet_gated.bin.tokenize --text "${raw}/${train_set}"/{text,text.ctc} \
            --output_dir "${token_dir}" --nbpe "${nbpe}" --langs ${langs} --tasks ${tasks} ${token_args}
        finish
    fi
    check_tokens
fi

if in_stage 4; then
    log "Stage 4: statistics of the features"
    check_tokens # done already, unless another --token_dir was given
    # shellcheck disable=SC2046
    if begin --wipe "${stats_dir}" stats "${s2t_config}" "${s2t_args}" "${dense_args}" "${num_stats_utts}" "${seed}" \
        $(set_files "${train_set}") $(set_files "${valid_set}") "${token_dir}/.tokens.done" "${given_tokens[@]}"; then
        for kind in train valid; do
            dset=${kind}_set
            text="${raw}/${!dset}/text"
            mkdir -p "${stats_dir}/${kind}"
            spaced_keys "${num_stats_utts}" "${text}" >"${stats_dir}/${kind}.keys"
            shuffled_keys "${seed}" "${text}" >"${stats_dir}/${kind}/keys"
        done
        # shellcheck disable=SC2046,SC2086
        run "${stats_dir}/stats.log" "${epoch_lines}" ${python} -m espnet_gated -m espnet2.bin.s2t_train \
            --config "${s2t_config}" --collect_stats true --use_preprocessor true --token_type bpe \
            --bpemodel "${token_dir}/bpe.model" --token_list "${token_dir}/tokens.txt" --ngpu "${ngpu}" \
            $(data_options train "${train_set}") $(data_options valid "${valid_set}") \
            --train_shape_file "${stats_dir}/train.keys" --valid_shape_file "${stats_dir}/valid.keys" \
            --output_dir "${stats_dir}" --seed "${seed}" ${s2t_args} ${dense_args} \
            --normalize none --batch_type unsorted --batch_size 20
        for kind in train valid; do # ESPnet's batches want the size of the vocabulary beside the length
            awk -v n="$(count_lines "${token_dir}/tokens.txt")" '{print $0 "," n}' "${stats_dir}/${kind}/text_shape" \
                >"${stats_dir}/${kind}/text_shape.bpe"
        done
        finish
    fi
fi

precision=${matmul_precision}
[ "${precision}" != auto ] || [ "${ngpu}" -eq 0 ] || precision=highest # it is the processor that is measured
if [ "${precision}" = auto ] && { in_stage 5 || in_stage 6; }; then
    # Measured once: all processes of a training, and trainings beside each other, have the same.
    precision=$(${python} -m espnet_gated.precision)
    log "Precision of training on this CPU: ${precision} (--matmul_precision auto)"
fi

if in_stage 5 && [ -z "${given_dense_exp}" ]; then
    log "Stage 5: dense training"
    train "${train_nj}" "${dense_exp}" "${s2t_config}" "" "${dense_args}"
fi

if in_stage 6; then
    log "Stage 6: gated fine-tuning from the dense model, and the control: the dense model trained on for as long"
    init="${dense_exp}/${inference_s2t_model}"
    [ -f "${init}" ] || die "no dense model to start from: ${init} (stage 5, or --dense_exp)"
    refuse_unfinished "${dense_exp}"
    gated=() control=()
    [ "${needs_gated}" = false ] || gated=("${gated_exp}" "${gated_config}" "${init}" "${gated_args}")
    [ "${needs_control}" = false ] || control=("${control_exp}" "${control_config}" "${init}" "${control_args}")
    if [ "${ngpu}" -le 1 ] && [ "${train_nj}" -ge 2 ] && [ ${#gated[@]} -gt 0 ] && [ ${#control[@]} -gt 0 ]; then
        # Side by side, on half of the cores each: no gradients to wait for, and the same minutes for both. A GPU serves
        # both too where the models are small.
        half=$((OMP_NUM_THREADS > 1 ? OMP_NUM_THREADS / 2 : 1))
        (OMP_NUM_THREADS=${half} train $((train_nj / 2)) "${control[@]}") > >(sed -u 's/^/control: /') 2>&1 &
        beside=$! code=0
        (OMP_NUM_THREADS=${half} train $((train_nj / 2)) "${gated[@]}") > >(sed -u 's/^/gated: /') 2>&1 &
        wait $! || code=$?
        wait "${beside}" || code=$?
        [ "${code}" -eq 0 ] || exit "${code}"
    else
        [ ${#gated[@]} -eq 0 ] || train "${train_nj}" "${gated[@]}"
        [ ${#control[@]} -eq 0 ] || train "${train_nj}" "${control[@]}"
    fi
    # shellcheck disable=SC2046
    if [ "${needs_gated}" = true ] && begin "${gated_exp}" budget $(calibration); then
        log "Thresholds of the learned budget, from ${valid_set} (log: ${gated_exp}/budget.log)"
        budget "${valid_set}" --calibrate true --num_utts 500
        finish
    fi
fi

if in_stage 7; then
    log "Stage 7: decoding"
    while read -r system exp engine sparsity dir dset <&3; do
        data="${raw}/${dset}" ctc='' thresholds=''
        [[ ${system} != *+ctc ]] || ctc="${ctc_args} --measure_nll false" # it is the attention decoder's
        if [ "${system}" = learned ]; then
            thresholds="${exp}/.budget.done"
            # shellcheck disable=SC2046
            is_finished "${exp}" budget $(calibration) ||
                die "the learned budget of ${exp}/${inference_s2t_model} is not calibrated (stage 6)"
        fi
        refuse_unfinished "${exp}"
        trained="${exp}/.train.done" # a model from elsewhere may have none
        [ -f "${trained}" ] || trained="${exp}/${inference_s2t_model}"
        # shellcheck disable=SC2046
        if begin --wipe "${dir}" decode "${system}" "${inference_config}" "${inference_args}" "${inference_s2t_model}" "${engine}" \
            "${sparsity}" ${ctc:+"${ctc}"} ${thresholds:+"${thresholds}"} "${seed}" $(set_files "${dset}") "${trained}" \
            "${inference_nj}" "${inference_ngpu}"; then
            [ "${sparsity}" = - ] && knob=() || knob=(--sparsity "${sparsity}")
            [[ ${system} != @(fixed|random|learned) ]] || knob+=(--budget "${system}")
            log "Decoding ${dset}: ${system}${knob[*]:+ at ${knob[*]}} (log: ${dir}/log)"
            # shellcheck disable=SC2086
            decode "${exp}" "${dir}" --engine "${engine}" --system "${system}" "${knob[@]}" \
                --ngpu "${inference_ngpu}" ${inference_args} ${ctc}
            finish
        fi
    done 3<<<"${decodings}"
fi

if in_stage 8; then
    log "Stage 8: scoring"
    while read -r system _ _ _ dir dset <&3; do
        if begin "${dir}" score "${dir}/.decode.done" "${raw}/${dset}/text" "${corpus}" "${system}"; then
            run "${dir}/score.log" p ${python} -m espnet_gated.bin.score --ref "${raw}/${dset}" --decode_dir "${dir}" \
                --corpus "${corpus}" --set "${dset}" --system "${system}"
            finish
        fi
    done 3<<<"${decodings}"
fi

if in_stage 9; then
    log "Stage 9: speed and FLOPs"
    cut -d ' ' -f 5 <<<"${decodings}" | xargs ${python} -m espnet_gated.bin.speed --decode_dirs
    for dset in ${test_sets}; do
        [ "${needs_gated}" = true ] || break
        # shellcheck disable=SC2046
        is_finished "${gated_exp}" budget $(calibration) ||
            die "the learned budget of ${gated_exp}/${inference_s2t_model} is not calibrated (stage 6)"
        # shellcheck disable=SC2046
        if begin "${gated_exp}" "budget_${dset}" "${gated_exp}/.budget.done" $(set_files "${dset}"); then
            log "Sparsity asked and reached on ${dset} (log: ${gated_exp}/budget.log)"
            budget "${dset}" --num_utts 1000 --json "${gated_exp}/budget_${dset}.json"
            finish
        fi
    done
fi

if in_stage 10; then
    log "Stage 10: results"
    tell_of_earlier_rows
    run "${expdir}/report/report.log" p ${python} -m espnet_gated.bin.report --expdir "${expdir}"
    ${python} -m espnet_gated.bin.results --expdir "${expdir}"
fi
log "Finished: stages ${stage} to ${stop_stage}"
exit 0
}
