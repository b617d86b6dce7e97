# Gives variables their values from the command line: `--expdir /tmp/exp` sets ${expdir}.
# Source it after the variables have their defaults: a name without a default is an unknown option.
# Reads ${help_message}, where there is one, for --help, and ${adding_up}: options that hold options themselves. Where one of
# these is given twice (by a recipe and then by its user), the second comes behind the first, not in its place.
# shellcheck shell=bash

_option_error() {
    echo "${0##*/}: $*" >&2
    exit 2
}

_given=" "
while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h)
            echo -e "${help_message:-No help for ${0##*/}}"
            exit 0
            ;;
        --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        --*)
            _option=${1#--}
            _option=${_option//-/_}
            [[ ${_option} =~ ^[a-z][a-z0-9_]*$ && -n ${!_option+set} ]] || _option_error "unknown option $1 (see --help)"
            [ $# -ge 2 ] || _option_error "$1 needs a value"
            [[ ${!_option} != @(true|false) || $2 = @(true|false) ]] || _option_error "$1 must be true or false, got '$2'"
            if [[ " ${adding_up:-} " = *" ${_option} "* && ${_given} = *" ${_option} "* ]]; then
                printf -v "${_option}" '%s %s' "${!_option}" "$2"
            else
                printf -v "${_option}" '%s' "$2"
            fi
            _given+="${_option} "
            shift 2
            ;;
        *) _option_error "words that are no option: $*" ;;
    esac
done
unset _option _given
