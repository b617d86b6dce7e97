#!/usr/bin/env bash
# Makes the sets train, dev, tst-COMMON and tst-HE of MuST-C (see local/prepare_must_c.py of the project).
set -euo pipefail

data_dir=data
corpus_dir=downloads
audio_dir=downloads/audio
st_pairs="eng-deu"
miniature=false     # write a miniature of the corpus into corpus_dir
nj=2

. utils/parse_options.sh
. ./path.sh

if [ "${miniature}" = true ]; then
    "${PYTHON:-python3}" "${MAIN_ROOT}/local/miniature.py" --corpus must_c --corpus_dir "${corpus_dir}"
fi
# shellcheck disable=SC2086
"${PYTHON:-python3}" "${MAIN_ROOT}/local/prepare_must_c.py" --corpus_dir "${corpus_dir}" --data_dir "${data_dir}" \
    --audio_dir "${audio_dir}" --st_pairs ${st_pairs//+/ } --nj "${nj}"
