# What ESPnet's trainer is told about the data. Reads ${raw}, ${stats_dir} and ${num_stats_utts} of s2t.sh.
# shellcheck shell=bash disable=SC2154

# --<train|valid>_data_path_and_name_and_type options of a set
data_options() {
    local dir="${raw}/$2" stream
    for stream in wav.scp,speech,sound text.prev,text_prev,text text.ctc,text_ctc,text text,text,text; do
        echo "--$1_data_path_and_name_and_type ${dir}/${stream}"
    done
}

# The batch type that a training uses: its options win over its YAML.
batch_type_of() {
    local found
    found=$(sed -nE "s/^batch_type:[ '\"]*([a-z]+).*/\1/p" "$1"
        tr -s ' =\n' '\n' <<<"$2" | sed -n '/^--batch_type$/{n;p}')
    found=$(tail -n 1 <<<"${found}")
    echo "${found:-folded}" # ESPnet's default
}

# ESPnet batches by the lengths found in stage 4, but `unsorted` takes the order of any file of keys: a shuffled one.
shape_options() {
    local kind type
    type=$(batch_type_of "$1" "$2")
    for kind in train valid; do
        if [ "${type}" = unsorted ]; then
            echo "--${kind}_shape_file ${stats_dir}/${kind}/keys"
        elif [ "${num_stats_utts}" = all ]; then
            echo "--${kind}_shape_file ${stats_dir}/${kind}/speech_shape --${kind}_shape_file ${stats_dir}/${kind}/text_shape.bpe"
        else
            die "batch_type ${type} needs the lengths of all utterances: --num_stats_utts all, or batch_type unsorted"
        fi
    done
}

# The checkpoints that options name (--init_param FILE:of:to …): a training is another one where their content is.
initial_files() {
    tr -s ' =\n' '\n' <<<"$*" | awk '/^--/ {named = ($0 == "--init_param"); next} named {sub(/:.*/, ""); print}'
}

# Files of data that options name (--train_data_path_and_name_and_type FILE,name,type), such as contexts of the utterances,
# with the arks beside them and those they point into: a vector's place may stay what it was
data_files() {
    local file ark
    while read -r file; do
        echo "${file}"
        for ark in "${file%/*}"/*.ark $(arks_of "${file}"); do [ ! -f "${ark}" ] || echo "${ark}"; done
    done < <(tr -s ' =\n' '\n' <<<"$*" | sed -nE '/^--(train|valid)_data_path_and_name_and_type$/{n; s/,.*//p}')
}

# arks_of FILE: those that a table of vectors (KEY ARK:OFFSET) points into
arks_of() {
    [ ! -f "$1" ] || awk 'NF == 2 && sub(/:[0-9]+$/, "", $2) && !seen[$2]++ {print $2}' "$1"
}

# spaced_keys N TEXT: N ids (or all), evenly spaced, because the utterances are sorted by speaker
spaced_keys() {
    awk -v n="${1/all/1e12}" 'NR == FNR {total++; next}
        n >= total || int(FNR * n / total) > int((FNR - 1) * n / total) {print $1}' "$2" "$2"
}

# shuffled_keys SEED TEXT: a shape file for `unsorted` batches
shuffled_keys() {
    awk -v seed="$1" 'BEGIN {srand(seed)} {printf "%.9f %s 1\n", rand(), $1}' "$2" | LC_ALL=C sort | cut -d ' ' -f 2-
}

# options_of_gates OPTIONS: the first of them that a model without gates refuses
options_of_gates() {
    local gating='--(encoder|decoder)_conf[ =]+gating[.=][^ ]*'
    local model='--model_conf[ =]+(sparsity_|context|default_context|distill_|joint_targets|targets_per)[^ ]*'
    grep -oE -m 1 -e "${gating}|${model}" <<<"$1" | head -n 1 || true
}
