#!/usr/bin/env bash
# Makes the sets train, dev and test of FLEURS (see local/prepare_fleurs.py of the project).
set -euo pipefail

data_dir=data
corpus_dir=downloads
audio_dir=downloads/audio
langs="deu+eng+fra+ita"
st_pairs="all-all"
download=false      # let lhotse fetch the languages into corpus_dir
miniature=false     # write a miniature of the corpus into corpus_dir
nj=2

. utils/parse_options.sh
. ./path.sh

if [ "${miniature}" = true ]; then
    "${PYTHON:-python3}" "${MAIN_ROOT}/local/miniature.py" --corpus fleurs --corpus_dir "${corpus_dir}"
fi
[ "${download}" = true ] && download=--download || download=--no-download
# shellcheck disable=SC2086
"${PYTHON:-python3}" "${MAIN_ROOT}/local/prepare_fleurs.py" --corpus_dir "${corpus_dir}" --data_dir "${data_dir}" \
    --audio_dir "${audio_dir}" --langs ${langs//+/ } --st_pairs ${st_pairs//+/ } --nj "${nj}" ${download}
