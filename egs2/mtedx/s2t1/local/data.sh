#!/usr/bin/env bash
# Makes the sets train, dev and test of Multilingual TEDx (see local/prepare_mtedx.py of the project).
set -euo pipefail

data_dir=data
corpus_dir=downloads
audio_dir=downloads/audio
langs="spa+fra+por+ita"
st_pairs="all-eng"
download=false      # fetch what is needed into corpus_dir
miniature=false     # write a miniature of the corpus into corpus_dir
nj=2

. utils/parse_options.sh
. ./path.sh

if [ "${miniature}" = true ]; then
    "${PYTHON:-python3}" "${MAIN_ROOT}/local/miniature.py" --corpus mtedx --corpus_dir "${corpus_dir}"
fi
[ "${download}" = true ] && download=--download || download=--no-download
# shellcheck disable=SC2086
"${PYTHON:-python3}" "${MAIN_ROOT}/local/prepare_mtedx.py" --corpus_dir "${corpus_dir}" --data_dir "${data_dir}" \
    --audio_dir "${audio_dir}" --langs ${langs//+/ } --st_pairs ${st_pairs//+/ } --nj "${nj}" ${download}
