# Gives variables their values from the command line: `--expdir /tmp/exp` sets ${expdir}.
# Source it after the variables have their defaults: a name without a default is an unknown option.
# Words after the last option stay in "$@". Reads ${help_message}, where there is one, for --help.
# shellcheck shell=bash

_option_error() {
    echo "${0##*/}: $*" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h)
            echo -e "${help_message:-No help for ${0##*/}}"
            exit 0
            ;;
        --)
            shift
            break
            ;;
        --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        --*)
            _option=${1#--}
            _option=${_option//-/_}
            [[ ${_option} =~ ^[a-z][a-z0-9_]*$ && -n ${!_option+set} ]] || _option_error "unknown option $1 (see --help)"
            [ $# -ge 2 ] || _option_error "$1 needs a value"
            [[ ${!_option} != @(true|false) || $2 = @(true|false) ]] || _option_error "$1 must be true or false, got '$2'"
            printf -v "${_option}" '%s' "$2"
            shift 2
            ;;
        *) break ;;
    esac
done
unset _option
