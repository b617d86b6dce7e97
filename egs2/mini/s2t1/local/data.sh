#!/usr/bin/env bash
# Makes the sets train, dev and test (and test_large) of the mini corpus (see local/prepare_mini.py of the project).
set -euo pipefail

data_dir=data
audio_dir=      # default: <data_dir>/audio
scale=full      # full or smoke
seed=0          # of sentences, voices and manner of speaking; not the seed of the trainings
large_test=0    # sentences of a second test set, test_large, in each language
nj=2

. utils/parse_options.sh
. ./path.sh

"${PYTHON:-python3}" "${MAIN_ROOT}/local/prepare_mini.py" --data_dir "${data_dir}" --audio_dir "${audio_dir:-${data_dir}/audio}" \
    --scale "${scale}" --seed "${seed}" --large_test "${large_test}" --workers "${nj}"
