#!/usr/bin/env bash
# Fetches Asterisk's prompts and makes the sets train, dev, test and test_unseen_spk (see local/prepare_asterisk.py
# of the project). A re-run needs no network.
set -euo pipefail

data_dir=data
downloads_dir=downloads             # packages and the audio at 16 kHz
langs="eng+spa+fra+ita+rus"
st_pairs="all-eng+eng-all"          # translations; all-all for every pair
second_voices=true                  # also write test_unseen_spk
max_seconds=8.0                     # the trainings' speech_length must hold it
seed=0                              # of the split; not the seed of the trainings
nj=2
speeds=                             # additions to the training set: recordings at these speeds too (0.9,1.1),
joined=0                            # rows of two or three short recordings, for each voice,
synth_voices=0                      # synthesised readings of each prompt,
synth_spans=0                       # synthesised pieces of prompts, for each language,
synth_guide=0                       # and of Debian's installation guide
natural=0                           # share of what is synthesised by voices trained on people; the rest: espeak-ng

. utils/parse_options.sh
. ./path.sh

[ "${second_voices}" = true ] && voices=--second_voices || voices=--no-second_voices
# shellcheck disable=SC2086
"${PYTHON:-python3}" "${MAIN_ROOT}/local/prepare_asterisk.py" --data_dir "${data_dir}" --downloads_dir "${downloads_dir}" \
    --langs ${langs//+/ } --st_pairs ${st_pairs//+/ } ${voices} --max_seconds "${max_seconds}" --seed "${seed}" --nj "${nj}" \
    --speeds ${speeds//,/ } --joined "${joined}" --synth_voices "${synth_voices}" --synth_spans "${synth_spans}" \
    --synth_guide "${synth_guide}" --natural "${natural}"
