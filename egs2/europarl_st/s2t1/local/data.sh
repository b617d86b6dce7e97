#!/usr/bin/env bash
# Makes the sets train, dev and test of Europarl-ST (see local/prepare_europarl_st.py of the project).
set -euo pipefail

data_dir=data
corpus_dir=downloads/europarl_st
audio_dir=downloads/audio
langs="deu+fra+ita"
st_pairs="all-eng"
download=false      # fetch the corpus into corpus_dir
miniature=false     # write a miniature of it into corpus_dir
nj=2

. utils/parse_options.sh
. ./path.sh

if [ "${miniature}" = true ]; then
    "${PYTHON:-python3}" "${MAIN_ROOT}/local/miniature.py" --corpus europarl_st --corpus_dir "${corpus_dir}"
fi
[ "${download}" = true ] && download=--download || download=--no-download
# shellcheck disable=SC2086
"${PYTHON:-python3}" "${MAIN_ROOT}/local/prepare_europarl_st.py" --corpus_dir "${corpus_dir}" --data_dir "${data_dir}" \
    --audio_dir "${audio_dir}" --langs ${langs//+/ } --st_pairs ${st_pairs//+/ } --nj "${nj}" ${download}
