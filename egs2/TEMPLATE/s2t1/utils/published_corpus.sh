# What the recipes of published corpora share. Source it with the arguments of run.sh, after ${own_options} names the
# recipe's own options (each a variable that holds its default) and ${corpus}, ${langs}, ${tasks} are known to it.
#   own options are taken out of "$@"; the others are left in ${options[@]}, for s2t.sh
#   use_scale OPTIONS OF DATA.SH…: ${scale} decides sizes and places; at smoke scale a miniature stands in for the corpus,
#     decoded at ${points}, where the recipe has its own
#   use_init_model: ${init_model}, a public model, gives the dense model its start and all models their tokens
# shellcheck shell=bash disable=SC2034,SC2154
. utils/steps.sh
. ./path.sh

smoke_dir=smoke
own_options+=" smoke_dir"
options=()
while [ $# -gt 0 ]; do
    _name=${1#--}
    _name=${_name%%=*}
    if [[ $1 = @(--help|-h) ]]; then
        sed -n '2,/^set/ s/^# \{0,1\}//p' run.sh
        echo "Options of this recipe and their defaults:"
        for _name in ${own_options}; do echo "    --${_name} ${!_name}"; done
        exec ./s2t.sh --help
    elif [[ $1 != --* || " ${own_options} " != *" ${_name} "* ]]; then
        options+=("$1") && shift
    elif [[ $1 = *=* ]]; then
        printf -v "${_name}" '%s' "${1#*=}" && shift
    else
        [ $# -ge 2 ] || die "$1 needs a value"
        printf -v "${_name}" '%s' "$2" && shift 2
    fi
done

# option NAME DEFAULT: the value that ${options[@]} give an option of s2t.sh
option() {
    local value=$2 i name
    for ((i = 0; i < ${#options[@]}; i++)); do
        name=${options[i]%%=*}
        [ "${name//-/_}" = "__$1" ] || continue
        if [[ ${options[i]} = *=* ]]; then value=${options[i]#*=}; else value=${options[i + 1]:-}; fi
    done
    echo "${value}"
}

use_scale() {
    local data_opts item
    for item in corpus_dir smoke_dir; do # such names go through lists of words
        [[ ${!item} != *[[:space:]]* ]] || die "no white space, please: '${!item}' (--${item})"
    done
    case "${scale}" in
        full)
            scale_options=(--nbpe 8000 --num_stats_utts all)
            data_opts="--corpus_dir ${corpus_dir} $*"
            ;;
        smoke)
            # the shape of OWSM, very small: two blocks of width 32, windows of 4 s
            local stack="attention_heads=2 num_blocks=2 linear_units=48" encoder args
            encoder="output_size=32 cgmlp_linear_units=48 cgmlp_conv_kernel=7 merge_conv_kernel=7 ${stack}"
            args="--batch_type unsorted --batch_size 8 --valid_batch_size 8 --max_epoch 1 --num_iters_per_epoch 6"
            args+=" --accum_grad 1 --use_amp false --num_workers 0 --keep_nbest_models 1 --frontend_conf n_mels=20"
            args+=" --preprocessor_conf speech_length=4"
            for item in ${encoder}; do args+=" --encoder_conf ${item}"; done
            for item in ${stack}; do args+=" --decoder_conf ${item}"; done
            scale_options=(
                --nbpe 200 --num_stats_utts 40 --s2t_args "${args}" --sparsities "${points:-0.0 0.5}"
                --inference_args "--measure_nll true --measure_flops true --flops_every 10 --maxlenratio -15" # 15 tokens: these models never end
                --datadir "${smoke_dir}/data" --dumpdir "${smoke_dir}/dump" --expdir "${smoke_dir}/exp"
            )
            data_opts="--corpus_dir ${smoke_dir}/corpus --audio_dir ${smoke_dir}/audio --miniature true $*"
            ;;
        *) die "--scale must be full or smoke, got '${scale}'" ;;
    esac
    options=("${scale_options[@]}" --local_data_opts "${data_opts}" "${options[@]}")
}

use_init_model() {
    [ -n "${init_model}" ] || return 0
    local dir
    dir="$(option dumpdir dump)/pretrained"
    # shellcheck disable=SC2086
    "$(option python python3)" -m espnet_gated.bin.use_pretrained --model "${init_model}" --output_dir "${dir}" --langs ${langs} --tasks ${tasks}
    options=(--token_dir "${dir}" --dense_args "--init_param ${dir}/model.pth" "${options[@]}")
}
