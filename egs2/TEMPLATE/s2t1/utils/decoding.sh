# Which decodings there are, and how one is run. Reads the variables of s2t.sh.
# shellcheck shell=bash disable=SC2154

# One line a decoding: system, experiment, engine, sparsity, directory, set. ${gated_name} is the system of the gated model.
# fixed and random are baselines of the gated checkpoint: one mask for everyone, and random masks, of the same cost.
# learned: its gates by thresholds that keep the budget on average, at the sparsities of the baselines.
# dense+ctc, control+ctc and gated+ctc: with ${ctc_args}.
list_decodings() {
    local system sparsity dset end
    for dset in ${test_sets}; do
        end="${inference_tag:+_${inference_tag}}/${dset} ${dset}"
        for system in ${systems}; do
            case "${system}" in
                espnet) echo "espnet ${dense_exp} espnet - ${dense_exp}/decode_espnet${end}" ;;
                dense+ctc) echo "${system} ${dense_exp} gated - ${dense_exp}/decode_ctc${end}" ;;
                control+ctc) echo "${system} ${control_exp} gated - ${control_exp}/decode_ctc${end}" ;;
                gated+ctc)
                    for sparsity in ${ctc_sparsities:-${sparsities}}; do
                        echo "${gated_name}+ctc ${gated_exp} gated ${sparsity} ${gated_exp}/decode_ctc_s${sparsity//,/_}${end}"
                    done
                    ;;
                dense) echo "dense ${dense_exp} gated - ${dense_exp}/decode_dense${end}" ;;
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

# The tables of stage 10 know systems by name, not by --tag: the same one under two tags would stop it at the very end.
refuse_rows_of_other_tags() {
    local system dir dset other
    [ -n "${tag}${inference_tag}" ] || return 0
    while read -r system _ _ _ dir dset; do
        for other in "${expdir}"/*/decode*/"${dset}"/decode_meta.json; do
            [ -f "${other}" ] && [[ ${decodings} != *" ${other%/*} "* ]] || continue
            ! grep -q "\"system\": \"${system}\"" "${other}" ||
                die "${other%/*} has rows of '${system}' already: give --tag or --inference_tag an --expdir of its own, or --stop_stage 9"
        done
    done <<<"${decodings}"
}

# decode EXP DIR OPTIONS…: one set with one system, by ${inference_nj} processes whose results are joined.
decode() {
    local exp=$1 dir=$2 code=0 pids=() job file out threads
    shift 2
    rm -rf "${dir}"/log/output.* "${dir}"/log/keys.* # of a run that was cut short, maybe with more processes
    mkdir -p "${dir}/log"
    [ "${inference_nj}" -le "$(wc -l <"${data}/text")" ] || die "more processes than utterances in ${data}/text: ${inference_nj} (--inference_nj)"
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
        for file in "${dir}"/log/output.001/*best_recog/*; do
            file=${file#"${dir}/log/output.001/"}
            mkdir -p "${dir}/${file%/*}"
            cat "${dir}"/log/output.*/"${file}" | LC_ALL=C sort >"${dir}/${file}"
        done
        cat "${dir}"/log/output.*/decode_stats.jsonl | LC_ALL=C sort >"${dir}/decode_stats.jsonl"
        cp "${dir}/log/output.001/decode_meta.json" "${dir}"
    fi
}
