#!/usr/bin/env bash
# Makes the sets train, dev and test (and test_large, test_noisy) of the mini corpus (see local/prepare_mini.py of the project).
set -euo pipefail

data_dir=data
audio_dir=      # default: <data_dir>/audio
scale=full      # full or smoke
seed=0          # of sentences, voices and manner of speaking; not the seed of the trainings
large_test=0    # sentences of a second test set, test_large, in each language
noisy_test=     # e.g. 10,20: a third set, test_noisy, of test_large in white noise, 10 to 20 dB below the speech
nj=2

. utils/parse_options.sh
. ./path.sh

"${PYTHON:-python3}" "${MAIN_ROOT}/local/prepare_mini.py" --data_dir "${data_dir}" --audio_dir "${audio_dir:-${data_dir}/audio}" \
    --scale "${scale}" --seed "${seed}" --large_test "${large_test}" --workers "${nj}"

if [ -n "${noisy_test}" ]; then
    read -ra snr <<<"${noisy_test//,/ }"
    "${PYTHON:-python3}" "${MAIN_ROOT}/local/add_noise.py" --in_dir "${data_dir}/test_large" --out_dir "${data_dir}/test_noisy" \
        --audio_dir "${audio_dir:-${data_dir}/audio}/noisy" --snr "${snr[@]}" --seed "${seed}"
fi
