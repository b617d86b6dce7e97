# Which decodings there are, and how one is run. Reads the variables of s2t.sh.
# shellcheck shell=bash disable=SC2154

# One line a decoding: system, experiment, engine, sparsity, directory, set. ${gated_name} is the system of the gated model.
# fixed and random are baselines of the gated checkpoint: one mask for everyone, and random masks, of the same cost.
# learned: its gates by thresholds that keep the budget on average, at the sparsities of the baselines.
# dense+ctc, control+ctc and gated+ctc: with ${ctc_args}.
# Decodings of the dense model are in ${dense_dir}: its experiment, or a place below ${expdir} where that is another one's.
list_decodings() {
    local system sparsity dset end
    for dset in ${test_sets}; do
        end="${inference_tag:+_${inference_tag}}/${dset} ${dset}"
        for system in ${systems}; do
            case "${system}" in
                espnet) echo "espnet ${dense_exp} espnet - ${dense_dir}/decode_espnet${end}" ;;
                dense+ctc) echo "${system} ${dense_exp} gated - ${dense_dir}/decode_ctc${end}" ;;
                control+ctc) echo "${system} ${control_exp} gated - ${control_exp}/decode_ctc${end}" ;;
                gated+ctc)
                    for sparsity in ${ctc_sparsities:-${sparsities}}; do
                        echo "${gated_name}+ctc ${gated_exp} gated ${sparsity} ${gated_exp}/decode_ctc_s${sparsity//,/_}${end}"
                    done
                    ;;
                dense) echo "dense ${dense_exp} gated - ${dense_dir}/decode_dense${end}" ;;
                control) echo "control ${control_exp} gated - ${control_exp}/decode${end}" ;;
                gated)
                    for sparsity in ${sparsities}; do
                        echo "${gated_name} ${gated_exp} gated ${sparsity} ${gated_exp}/decode_s${sparsity//,/_}${end}"
                    done
                    ;;
                fixed | random | learned)
                    for sparsity in ${baseline_sparsities}; do
                        echo "${system} ${gated_exp} gated ${sparsity} ${gated_exp}/decode_${system}_s${sparsity//,/_}${end}"
                    done
                    ;;
                *) die "unknown system '${system}' in --systems (espnet, dense, control, gated, fixed, random, learned, dense+ctc, control+ctc, gated+ctc)" ;;
            esac
        done
    done
}

# One sparsity in two spellings (0.5 and 0.50) is one row of the tables.
refuse_rows_twice() {
    local twice
    twice=$(awk '{split($4, asked, ","); encoder = asked[1] + 0; decoder = $4 ~ /,/ ? asked[2] + 0 : encoder
        row = $1 " " $6 " " encoder " " decoder; if (row in seen) {print seen[row] " and " $4 " of " $1; exit} seen[row] = $4}' <<<"${decodings}")
    [ -z "${twice}" ] || die "the same sparsity twice: ${twice} (--sparsities, --baseline_sparsities, --ctc_sparsities, --systems)"
}

# The tables of stage 10 know a decoding by system and sparsity, not by --tag: the same under two tags would stop it at the
# very end.
refuse_rows_of_other_tags() {
    local system sparsity dir dset other
    while read -r system _ _ sparsity dir dset; do
        for other in "${expdir}"/*/decode*/"${dset}"/decode_meta.json; do
            [ -f "${other}" ] && [[ ${decodings} != *" ${other%/*} "* ]] || continue
            ! is_decoding "${other}" "${system}" "${sparsity/#-/0}" ||
                die "${other%/*} has the rows of '${system}' at ${sparsity/#-/0} already: move it away, or give a --tag or --inference_tag an --expdir of its own, another --gated_name or --stop_stage 9"
        done
    done <<<"${decodings}"
}

# Decodings of earlier runs that are not of this one's: their rows stand in the tables, made of what has changed since.
tell_of_earlier_rows() {
    local dset other exp
    for dset in ${test_sets}; do
        for other in "${expdir}"/*/decode*/"${dset}"/decode_meta.json; do
            [ -f "${other}" ] && [[ ${decodings} != *" ${other%/*} "* ]] || continue
            exp=${other%/decode*/"${dset}"/decode_meta.json}
            if [ "${other}" -ot "${raw}/${dset}/text" ]; then
                log "Earlier than the set: ${other%/*} (decode it again, or remove it: its rows are in the tables)"
            elif [ "${exp}" != "${dense_dir}" ] && [ "${exp}/.train.done" -ot "${dense_exp}/.train.done" ]; then
                log "Of an earlier dense model: ${other%/*} (stages 6 to 8 make it anew, or remove it: its rows are in the tables)"
            fi
        done
    done
}

# is_decoding FILE SYSTEM SPARSITY: whether a decode_meta.json says so
is_decoding() {
    awk -F '": ' -v system_="$2" -v encoder="${3%,*}" -v decoder="${3#*,}" '
        {gsub(/[ "]/, "", $1); gsub(/[",]/, "", $2); said[$1] = $2}
        END {exit !(said["system"] == system_ && said["sparsity_encoder"] + 0 == encoder + 0 && said["sparsity_decoder"] + 0 == decoder + 0)}
    ' "$1"
}

# How decodings pad utterances, for what looks at them beside: their options win over their YAML.
padding_options() {
    local found
    found=$(sed -nE "s/^pad_to_speech_length:[ '\"]*([a-zA-Z0-9]+).*/\1/p" "${inference_config}"
        tr -s ' =\n' '\n' <<<"${inference_args}" | sed -n '/^--pad_to_speech_length$/{n;p}')
    echo "${found:+--pad_to_speech_length $(tail -n 1 <<<"${found}")}"
}

# decode EXP DIR OPTIONS…: one set with one system, by ${inference_nj} processes whose results are joined.
decode() {
    local exp=$1 dir=$2 code=0 pids=() job file out threads
    shift 2
    rm -rf "${dir}"/log/output.* "${dir}"/log/keys.* # of a run that was cut short, maybe with more processes
    mkdir -p "${dir}/log"
    [ "${inference_nj}" -le "$(count_lines "${data}/text")" ] || die "more processes than utterances in ${data}/text: ${inference_nj} (--inference_nj)"
    threads=$((OMP_NUM_THREADS > inference_nj ? OMP_NUM_THREADS / inference_nj : 1))
    split -n "r/${inference_nj}" -a 3 --numeric-suffixes=1 "${data}/text" "${dir}/log/keys."
    for job in $(seq -f '%03g' "${inference_nj}"); do
        out="${dir}/log/output.${job}"
        [ "${inference_nj}" -gt 1 ] || out=${dir}
        # shellcheck disable=SC2086
        ESPNET_GATED_TYPE_CHECKS=${ESPNET_GATED_TYPE_CHECKS:-false} OMP_NUM_THREADS=${threads} run "${dir}/log/decode.${job}.log" "" \
            ${python} -m espnet_gated.bin.s2t_inference --config "${inference_config}" --data_dir "${data}" \
            --key_file "${dir}/log/keys.${job}" --s2t_train_config "${exp}/config.yaml" \
            --s2t_model_file "${exp}/${inference_s2t_model}" --output_dir "${out}" --seed "${seed}" \
            --processes "${inference_nj}" "$@" &
        pids+=($!)
    done
    for job in "${pids[@]}"; do wait "${job}" || code=$?; done
    [ "${code}" -eq 0 ] || exit "${code}"
    if [ "${inference_nj}" -gt 1 ]; then
        for file in $(cd "${dir}/log" && printf '%s\n' output.*/*best_recog/* | sed 's|^[^/]*/||' | sort -u); do
            mkdir -p "${dir}/${file%/*}"
            cat "${dir}"/log/output.*/"${file}" | LC_ALL=C sort >"${dir}/${file}"
        done
        cat "${dir}"/log/output.*/decode_stats.jsonl | LC_ALL=C sort >"${dir}/decode_stats.jsonl"
        cp "${dir}/log/output.001/decode_meta.json" "${dir}"
    fi
}
