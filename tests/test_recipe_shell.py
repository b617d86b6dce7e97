"""The shell parts of the recipes: options, steps that resume, keys for ESPnet's trainer."""

import subprocess

import pytest
from planned_recipe import ROOT, PlannedRecipe, bash

from espnet_gated.model import gating_options

MINI = ROOT / "egs2" / "mini" / "s2t1"


OPTIONS = """
some_name=default
flag=false
some_args="--of default"
adding_up="more_args some_args"
. utils/parse_options.sh
echo "${some_name}|${flag}|${some_args}"
"""


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "default|false|--of default"),
        (["--some_name", "a b"], "a b|false|--of default"),
        (["--some-name", "x", "--flag", "true"], "x|true|--of default"),
        (["--some_name=a=b"], "a=b|false|--of default"),
        (["--some_name", ""], "|false|--of default"),
        (["--some_name", "--max_epoch 1"], "--max_epoch 1|false|--of default"),
        (["--some_name", "a", "--some_name", "b"], "b|false|--of default"),
        (["--some_args", "--lr 3"], "default|false|--lr 3"),
        (["--some_args", "--lr 3", "--flag", "true", "--some-args=--lr 2"], "default|true|--lr 3 --lr 2"),
    ],
)
def test_options_are_parsed(args, expected):
    result = bash(OPTIONS, *args)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{expected}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--unknown", "1"], "unknown option --unknown"),
        (["--PATH", "/tmp"], "unknown option --PATH"),
        (["--some_name"], "--some_name needs a value"),
        (["--flag", "yes"], "--flag must be true or false, got 'yes'"),
        (["--some_name", "a", "b", "--flag", "true"], "words that are no option: b --flag true"),
    ],
)
def test_impossible_options_end_with_one_line(args, message):
    result = bash(OPTIONS, *args)
    assert result.returncode == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


STEP = """
. utils/steps.sh
dir=$1; input=$2; word=$3; shift 3
if begin ${MODE:-} "${dir}" work "${input}" "${word}"; then
    "$@"
    finish
fi
"""


def step(path, *command, word="word", mode="", worker="touch"):
    script = f"MODE={mode}\n{STEP}"
    return bash(script, path / "out", path / "input", word, *(command or (worker, path / "ran")))


def test_a_finished_step_runs_again_only_for_other_inputs(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "input").write_text("1")

    def runs(**options):
        ran.unlink(missing_ok=True)
        assert step(tmp_path, **options).returncode == 0
        return ran.exists()

    assert runs()
    assert not runs()
    assert runs(word="other")
    assert not runs(word="other")
    (tmp_path / "input").write_text("2")
    assert runs(word="other")


@pytest.mark.parametrize(
    ("name", "before", "after", "again"),
    [
        ("a.yaml", "lr: 1 # old\n\n# all\n", "lr: 1  # new\n", False),
        ("a.yaml", "lr: 1\n", "lr: 1 # 2\n", False),
        ("a.yaml", "lr: 1\n", "lr: 1#2\n", True),
        ("a.yaml", "token: '▁ # a'\n", "token: '▁ # b'\n", True),
        ("a.txt", "lr: 1 # old\n", "lr: 1 # new\n", True),
    ],
)
def test_comments_of_yaml_files_are_no_other_input(tmp_path, name, before, after, again):
    file = tmp_path / name
    script = f". utils/steps.sh; if begin {tmp_path}/out work {file}; then echo ran; finish; fi"
    printed = []
    for content in (before, after):
        file.write_text(content)
        result = bash(script)
        assert result.returncode == 0, result.stderr
        printed.append("ran\n" in result.stdout)
    assert printed == [True, again]


def test_a_failed_step_is_not_finished(tmp_path):
    (tmp_path / "input").write_text("1")
    assert step(tmp_path, "false").returncode == 1
    assert not list((tmp_path / "out").glob(".*.done*"))
    assert step(tmp_path).returncode == 0
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("mode", ["", "--wipe", "--aside"])
def test_what_other_inputs_left_behind(tmp_path, mode):
    (tmp_path / "input").write_text("1")
    out = tmp_path / "out"
    assert step(tmp_path, "false", mode=mode).returncode == 1
    (out / "checkpoint.pth").write_text("half-way")
    for decoding in ("decode", "decode_x"):
        (out / decoding).mkdir()
    assert step(tmp_path, "false", mode=mode).returncode == 1
    assert (out / "checkpoint.pth").exists(), "the same inputs go on where it stopped"
    assert step(tmp_path, "true", word="other", mode=mode).returncode == 0
    assert (out / "checkpoint.pth").exists() == (mode == "")
    old = list(tmp_path.glob("out.old.*"))
    assert len(old) == (mode == "--aside")
    if old:
        assert (old[0] / "checkpoint.pth").exists()
        assert not list(old[0].glob("decode*")), "scores of other weights"


def test_a_step_that_cannot_be_begun_is_not_taken_for_finished(tmp_path):
    """``set -e`` does not look into the condition of an ``if``."""
    (tmp_path / "input").write_text("1")
    (tmp_path / "out").write_text("a file in the place of the folder")
    result = step(tmp_path)
    assert result.returncode == 1
    assert f"cannot write {tmp_path}/out/.work.key" in result.stderr
    assert "finished before" not in result.stdout
    assert not (tmp_path / "ran").exists()


def test_a_failing_command_shows_the_end_of_its_log(tmp_path):
    script = '. utils/steps.sh\nrun "$1/log/x.log" p bash -c "echo one; echo two >&2; exit 7"'
    result = bash(script, tmp_path)
    assert result.returncode == 7
    assert result.stdout.split()[-2:] == ["one", "two"]
    assert "two" in result.stderr
    assert f"{tmp_path}/log/x.log" in result.stderr.splitlines()[-1]


TRAINER = """
raw=raw stats_dir=stats num_stats_utts=$1
. utils/steps.sh
. utils/trainer_options.sh
shape_options "$2" "$3"
"""


@pytest.mark.parametrize(
    ("yaml", "args", "num_stats_utts", "expected"),
    [
        ("batch_type: unsorted", "", "10", "stats/train/keys"),
        ("batch_type: numel", "--batch_type unsorted", "10", "stats/train/keys"),
        ("batch_type: 'unsorted'  # shuffled", "", "10", "stats/train/keys"),
        ("batch_type: numel", "", "all", "stats/train/speech_shape"),
        ("", "", "all", "stats/train/speech_shape"),
        ("batch_type: numel", "", "10", None),
        ("", "--batch_type=numel", "10", None),
    ],
)
def test_shape_files_suit_the_batch_type(tmp_path, yaml, args, num_stats_utts, expected):
    config = tmp_path / "train.yaml"
    config.write_text(f"{yaml}\n")
    result = bash(TRAINER, num_stats_utts, config, args)
    if expected is None:
        assert result.returncode == 1
        assert "--num_stats_utts all" in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        assert result.stdout.split()[:2] == ["--train_shape_file", expected]


@pytest.mark.parametrize("n", ["1", "7", "100", "all"])
def test_keys_are_spaced_and_shuffled(tmp_path, n):
    text = tmp_path / "text"
    ids = [f"utt{i:03d}" for i in range(60)]
    text.write_text("".join(f"{i} words\n" for i in ids))
    load = ". utils/trainer_options.sh\n"
    spaced = bash(f'{load}spaced_keys "$1" "$2"', n, text).stdout.split()
    assert len(spaced) == (60 if n in ("100", "all") else int(n))
    assert spaced == sorted(set(spaced) & set(ids))
    shuffled = [bash(f'{load}shuffled_keys "$1" "$2"', seed, text).stdout for seed in "112"]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    keys = [line.split()[0] for line in shuffled[0].splitlines()]
    assert sorted(keys) == ids != keys


TRAINING_LOG = """
(trainer:336) INFO: 1/4epoch started
(trainer:811) INFO: 1epoch:train:301-350batch: iter_time=0.1, loss_ctc=40.3, acc=0.704, loss=26.7, train_time=0.878
(trainer:811) INFO: 1epoch:train:351-400batch: iter_time=0.1, loss_ctc=36.6, acc=0.720, loss=24.6, train_time=0.895
(trainer:384) INFO: 1epoch results: [train] iter_time=0.1, loss=24.5, train_time=0.4, total_count=500, [valid] loss=3.4
(trainer:324) INFO: 2/4epoch started. Estimated time to finish: 22 minutes and 3.4 seconds
"""


def test_a_training_shows_steps_results_and_the_time_left():
    script = 'eval "$(sed -n "/^epoch_lines=/,/^}.$/p" s2t.sh)"; sed -unE "${epoch_lines}" <<<"$1"'
    assert bash(script, TRAINING_LOG).stdout.splitlines() == [
        "1epoch:train:351-400batch: loss=24.6, train_time=0.895",
        "1epoch results: [train] loss=24.5, train_time=0.4 [valid] loss=3.4",
        "2/4epoch started. Estimated time to finish: 22 minutes and 3.4 seconds",
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--corpus", ""], "--corpus is needed"),
        (["--s2t_config", "conf/none.yaml"], "no such file: conf/none.yaml"),
        (["--systems", "dense sparse"], "unknown system 'sparse'"),
        (["--sparsities", "0.0 1.3"], "sparsity must be in [0, 1), got 1.3"),
        (["--sparsities", "0.5,x"], "sparsity must be in [0, 1), got 0.5,x"),
        (["--sparsities", "0 0.3 0.0,0.0"], "the same sparsity twice: 0 and 0.0,0.0 of gated (--sparsities"),
        (["--baseline_sparsities", "0.5 0.7 0.70"], "the same sparsity twice: 0.7 and 0.70 of fixed"),
        (["--systems", "dense control dense"], "the same sparsity twice: - and - of dense"),
        (["--gated_name", "fixed"], "the name must be gated, or begin so and go on with a-z, 0-9 or _, got 'fixed'"),
        (
            ["--scale", "huge"],
            "--scale must be full, large_test, noisy_test, seeds, ablation, smoke or base, got 'huge'",
        ),
        (
            ["--stage", "6", "--dense_exp", "nowhere"],
            "no dense model to start from: nowhere/valid.loss.best.pth (stage 5, or --dense_exp)",
        ),
        (
            ["--scale", "ablation", "--stage", "6", "--dense_exp", "nowhere"],
            "both: s2t.sh: no dense model to start from: nowhere/valid.loss.best.pth (stage 5, or --dense_exp)",
        ),
        (["--stage", "5", "--tag", "new"], "exp/s2t_stats_new (stage 4)"),
        (
            ["--gated_args", "--max_epoch 2 --encoder_conf gating.freeze_steps=500"],
            "the control has no gates: '--encoder_conf gating.freeze_steps=500'. Say which of --gated_args are for it",
        ),
        (["word"], "words that are no option: word"),
        (["--expdir", "my exp"], "no white space, please: 'my exp' (--expdir)"),
    ],
)
def test_a_recipe_refuses_before_it_starts(tmp_path, args, message):
    places = [f"--{name}dir={tmp_path}/{name}" for name in ("data", "dump", "exp")]
    result = subprocess.run([MINI / "run.sh", *places, *args], capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("separator", [" ", "="])
def test_options_of_gates_are_told_from_others(separator):
    """All that a gated model takes beside ESPnet's options, and none of those."""

    def found(options):
        result = bash('. utils/trainer_options.sh; options_of_gates "$1"', options)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    for option in gating_options():
        given = f"--model_conf{separator}{option}=1"
        assert found(f"--max_epoch 2 {given} --lr 3") == given
    for stack in ("encoder", "decoder"):
        given = f"--{stack}_conf{separator}gating.anchors=[]"
        assert found(f"--max_epoch 2 {given} --{stack}_conf gating.prior=1") == given
    assert found("--max_epoch 2 --model_conf ctc_weight=0.5 --encoder_conf dropout_rate=0.1") == ""
    assert found("") == found(" ") == ""


def test_a_control_with_options_of_its_own_is_not_refused(tmp_path):
    planned = PlannedRecipe(tmp_path, "mini")
    gates = ("--gated_args", "--encoder_conf gating.freeze_steps=500")
    assert planned.calls(*gates, "--control_args", " ")
    assert planned.calls(*gates, "--systems", "dense gated")
    assert planned.calls(*gates, "--stage", "7")


@pytest.mark.parametrize("recipe", ["mini", "asterisk", "europarl_st", "fleurs", "mtedx", "must_c"])
def test_help_tells_of_the_recipe_and_of_the_stages(recipe):
    result = subprocess.run(
        [ROOT / "egs2" / recipe / "s2t1" / "run.sh", "--help"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "./run.sh --" in result.stdout and "Stages: 1 data" in result.stdout
    own = {"mini": "--scale large_test", "asterisk": "--mini_model FILE"}.get(recipe, "--init_model")
    assert own in result.stdout


@pytest.mark.parametrize("option", ["corpus_dir", "smoke_dir"])
def test_white_space_in_places_of_corpora_is_refused(option):
    command = [ROOT / "egs2" / "fleurs" / "s2t1" / "run.sh", f"--{option}", "/tmp/my corpus"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert f"no white space, please: '/tmp/my corpus' (--{option})" in result.stderr


def test_a_recipe_of_translations_wants_a_language_to_translate_into():
    command = [ROOT / "egs2" / "mtedx" / "s2t1" / "run.sh", "--tgt_langs", ""]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "at least one language to translate into, please (--tgt_langs)" in result.stderr


def test_initial_checkpoints_are_found_among_options():
    args = "--lr 3 --init_param a/x.pth:encoder:encoder b.pth --max_epoch 2", "--init_param c.pth:::ctc"
    result = bash('. utils/trainer_options.sh; initial_files "$1 $2"', *args)
    assert result.stdout.split() == ["a/x.pth", "b.pth", "c.pth"], result.stderr
    assert bash('. utils/trainer_options.sh; initial_files "$1"', "--init_param=a.pth --x").stdout == "a.pth\n"
    assert bash('. utils/trainer_options.sh; initial_files "$1"', "--lr 3").stdout == ""


def test_a_set_is_copied_with_what_is_there_now(tmp_path):
    """Files alone, and none of an earlier copy; what others wrote stays."""
    for name in ("raw", "corpus", "corpus/split4utt"):
        (tmp_path / name).mkdir()
    (tmp_path / "data").symlink_to("corpus")
    for name in ("wav.scp", "utt2device"):
        (tmp_path / "data" / name).write_text(name)
    (tmp_path / "raw" / "utt2speaker").touch()
    script = 'eval "$(sed -n "/^copy_set() {/,/^}$/p" s2t.sh)"; copy_set "$1/data" "$1/raw"'
    assert bash(script, tmp_path).returncode == 0
    assert sorted(f.name for f in (tmp_path / "raw").iterdir()) == [".copied", "utt2device", "utt2speaker", "wav.scp"]
    (tmp_path / "data" / "utt2device").unlink()
    assert bash(script, tmp_path).returncode == 0
    assert sorted(f.name for f in (tmp_path / "raw").iterdir()) == [".copied", "utt2speaker", "wav.scp"]


def test_options_of_the_dense_model_keep_its_start(tmp_path):
    """A user's ``--dense_args`` come to those of a recipe that starts from a public model."""
    script = """
    scale=full init_model=some langs=deu tasks=asr own_options="scale init_model"
    . utils/published_corpus.sh
    python3() { :; }
    use_init_model
    set -- "${options[@]}"
    dense_args= token_dir= nj= adding_up=dense_args
    . utils/parse_options.sh
    echo "${dense_args}"
    """
    for given in (["--dense_args", "--max_epoch 3"], ["--dense-args=--max_epoch 3"]):
        result = bash(script, *given, "--nj", "4")
        assert result.stdout.strip() == "--init_param dump/pretrained/model.pth --max_epoch 3", result.stderr


def test_a_training_knows_what_it_starts_from(tmp_path):
    """Another checkpoint under the same name, one of the same model or other contexts are another training."""
    script = """
    eval "$(sed -n "/^train() {/,/^}$/p" s2t.sh)"
    . utils/steps.sh
    . utils/trainer_options.sh
    shape_options() { :; }
    run() { echo "trained"; }
    data_options() { :; }
    stats_dir=$1 ngpu=0 s2t_args= seed=1
    matmul_precision=auto precision=highest python=python3 token_dir=x epoch_lines= given_tokens=()
    touch "$1/.stats.done" "$1/c.yaml"
    train 1 "$1/exp" "$1/c.yaml" "$1/$2" "$3"
    """

    def trains(init="a.pth", args=""):
        result = bash(script, tmp_path, init, args)
        assert result.returncode == 0, result.stderr
        return "trained" in result.stdout

    for name in ("a.pth", "b.pth", "c.pth"):
        (tmp_path / name).write_text(name)
    assert trains() and not trains()
    assert trains("b.pth") and not trains("b.pth")
    (tmp_path / "b.pth").write_text("new")
    assert trains("b.pth")
    more = f"--init_param {tmp_path}/c.pth:encoder:encoder"
    assert trains("b.pth", more) and not trains("b.pth", more)
    (tmp_path / "c.pth").write_text("new")
    assert trains("b.pth", more)
    contexts = f"--train_data_path_and_name_and_type {tmp_path}/utt2device,device,text"
    (tmp_path / "utt2device").write_text("a phone\n")
    assert trains("b.pth", contexts) and not trains("b.pth", contexts)
    (tmp_path / "utt2device").write_text("a radio\n")
    assert trains("b.pth", contexts) and not trains("b.pth", contexts)
    (tmp_path / "speaker.ark").write_text("other vectors at the same places")
    assert trains("b.pth", contexts)
    (tmp_path / "elsewhere").mkdir()
    ark = tmp_path / "elsewhere" / "speaker.ark"
    ark.write_text("vectors")
    (tmp_path / "utt2device").write_text(f"a {ark}:13\nb {ark}:99\n")
    assert trains("b.pth", contexts) and not trains("b.pth", contexts)
    ark.write_text("other vectors at the same places")
    assert trains("b.pth", contexts) and not trains("b.pth", contexts)


def test_a_training_that_was_cut_short_is_not_used(tmp_path):
    """Nothing else tells a half-trained model from one that came from elsewhere."""
    script = """
    . utils/steps.sh
    eval "$(sed -n "/^refuse_unfinished() {/,/^}$/p" s2t.sh)"
    refuse_unfinished "$1"
    """
    assert bash(script, tmp_path).returncode == 0  # from elsewhere
    (tmp_path / ".train.key").touch()
    result = bash(script, tmp_path)
    assert result.returncode == 1 and f"the training of {tmp_path} is not finished: stage 5 or 6" in result.stderr
    (tmp_path / ".train.done").touch()
    assert bash(script, tmp_path).returncode == 0


@pytest.mark.parametrize(("text", "lines"), [("", 0), ("a\n", 1), ("a\nb", 2)])
def test_a_last_line_counts_without_a_newline_too(tmp_path, text, lines):
    (tmp_path / "text").write_text(text)
    assert bash('. utils/steps.sh; count_lines "$1"', tmp_path / "text").stdout == f"{lines}\n"
