# Steps that resume. A step is a piece of work with a name in a directory; it is finished when <dir>/.<name>.done
# holds the key made of its inputs (files: their content, other words: themselves). The marker is written last and
# at once, so that work cut short is never taken for finished.
#
#   if begin --wipe "${dir}" decode "${config}" "${beam}"; then
#       run "${dir}/decode.log" "${lines_to_show}" command …
#       finish
#   fi
# shellcheck shell=bash

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# count_lines FILE: the last one too where no newline ends it
count_lines() {
    awk 'END {print NR}' "$1"
}

# A comment in a YAML file is no reason to train again. Lines with quotes stay as they are: there # may be part of a value.
_without_comments() {
    sed -E "/[\"']/! s/(^|[[:space:]]+)#.*\$//; /^[[:space:]]*\$/d" "$1"
}

_key_of() {
    local item
    for item in "$@"; do
        if [[ ${item} = *.yaml && -f ${item} ]]; then
            _without_comments "${item}" | sha256sum
        elif [ -f "${item}" ]; then
            sha256sum <"${item}"
        else
            printf '%s\n' "${item}"
        fi
    done | sha256sum | cut -d ' ' -f 1
}

# is_finished DIR NAME INPUT…: whether the step was done with these inputs
is_finished() {
    [ -f "$1/.$2.done" ] && [ "$(head -n 1 "$1/.$2.done")" = "$(_key_of "${@:3}")" ]
}

# begin [--wipe|--aside] DIR NAME INPUT…: true if the step is to be done. What another set of inputs left in DIR stays
# (the step overwrites it), is deleted (--wipe), or is moved to DIR.old.<date> where it holds checkpoints (--aside).
begin() {
    local before=keep
    case "$1" in --wipe | --aside) before=${1#--} && shift ;; esac
    step_dir=$1 step_name=$2
    step_key=$(_key_of "${@:3}")
    local done_file="${step_dir}/.${step_name}.done" key_file="${step_dir}/.${step_name}.key"
    if is_finished "${step_dir}" "${step_name}" "${@:3}"; then
        log "${step_name}: finished before, nothing to do: ${step_dir}"
        return 1
    fi
    rm -f "${done_file}" || die "cannot delete ${done_file}"
    if [ -f "${key_file}" ] && [ "$(cat "${key_file}")" != "${step_key}" ]; then
        [ "${before}" != aside ] || compgen -G "${step_dir}/*.pth" >/dev/null || before=wipe
        case "${before}" in
            wipe) rm -rf "${step_dir}" || die "cannot delete ${step_dir}" ;;
            aside)
                local old
                old="${step_dir}.old.$(date '+%Y%m%dT%H%M%S')"
                log "The options of ${step_dir} have changed: the old checkpoints are kept in ${old}, what they decoded is not"
                mv "${step_dir}" "${old}" || die "cannot move ${step_dir} to ${old}"
                rm -rf "${old}"/decode "${old}"/decode_* "${old}"/budget_*.json # made by other weights: not to be counted among the results
                ;;
        esac
    fi
    # said by name: `set -e` does not look into the condition of an `if`, and failing would read as "finished before"
    { mkdir -p "${step_dir}" && echo "${step_key}" >"${key_file}"; } || die "cannot write ${key_file}"
}

# finish: marks the step of the last `begin` as finished. The time makes later steps see that it was done anew.
finish() {
    printf '%s\n%s\n' "${step_key}" "$(date '+%s.%N')" >"${step_dir}/.${step_name}.done.tmp"
    mv "${step_dir}/.${step_name}.done.tmp" "${step_dir}/.${step_name}.done"
}

# A sed script that prints progress bars (tqdm) in steps of 10 %: the hold space keeps the tens printed last.
_bars='/^$/d
/^([^|]*: )? *[0-9]+%\|/ {
    s/\].*/]/
    G
    /^([^|]*: )? *([0-9]*)[0-9]%.*\n\2$/d
    P
    s/^([^|]*: )? *([0-9]*)[0-9]%.*/\2/
    h
    d
}'

# run LOG SHOW COMMAND…: runs a command with its output in LOG; shows progress bars and what the sed script SHOW prints.
run() {
    local logfile=$1 show=$2 code=0
    shift 2
    mkdir -p "$(dirname "${logfile}")"
    echo "# $(date '+%Y-%m-%dT%H:%M:%S') $*" >>"${logfile}"
    "$@" 2>&1 | tee -a "${logfile}" | stdbuf -oL tr '\r' '\n' | sed -unE "${_bars}
${show}" || code=$?
    if [ "${code}" -ne 0 ]; then
        tail -n 10 "${logfile}" >&2
        log "Error: exit code ${code} of '${*:1:4} …'. The whole log: ${logfile}" >&2
        exit "${code}"
    fi
}
