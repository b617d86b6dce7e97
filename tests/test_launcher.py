"""``python -m espnet_gated``: what would stand behind ``python`` runs with the gated names registered."""

import io
import subprocess
import sys

import pytest

from espnet_gated.__main__ import USAGE, main


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """A launched program may change these."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))


PROGRAM = "import sys, espnet_gated; print(__name__, *sys.argv[1:])"


def test_command(capsys):
    main(["-c", PROGRAM, "-x", "a b"])
    assert capsys.readouterr().out == "__main__ -x a b\n"
    assert sys.argv == ["-c", "-x", "a b"]


def test_script(tmp_path, capsys):
    """A script finds the modules beside it."""
    (tmp_path / "beside_the_script.py").write_text("WORD = 'found'", encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text(f"{PROGRAM}\nfrom beside_the_script import WORD\nprint(WORD, __file__)", encoding="utf-8")
    main([str(script), "--help"])
    assert capsys.readouterr().out == f"__main__ --help\nfound {script}\n"


def test_module(tmp_path, capsys, monkeypatch):
    (tmp_path / "launched_module.py").write_text(f"{PROGRAM}\nprint(sys.argv[0])", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    main(["-m", "launched_module", "-h", "1"])
    assert capsys.readouterr().out == f"__main__ -h 1\n{tmp_path / 'launched_module.py'}\n"


def test_standard_input(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROGRAM))
    main(["-", "a"])
    assert capsys.readouterr().out == "__main__ a\n"


def test_interpreter_flags_are_passed_over(capsys):
    main(["-u", "-c", PROGRAM, "-u"])
    assert capsys.readouterr().out == "__main__ -u\n"


def test_help(capsys):
    main(["--help"])
    assert USAGE in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "usage"), (["-m"], "-m needs MODULE"), (["-c"], "-c needs CODE"), (["-q"], "-q")]
)
def test_nothing_to_run(arguments, message):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert message in str(error.value) and USAGE in str(error.value)


def test_what_the_program_says_is_passed_on():
    with pytest.raises(SystemExit, match="3"):
        main(["-c", "raise SystemExit(3)"])
    with pytest.raises(ImportError, match="no_such_module"):
        main(["-m", "no_such_module"])
    with pytest.raises(FileNotFoundError):
        main(["no_such_script.py"])


def test_names_are_registered_in_a_fresh_interpreter():
    """The one test that pays for ESPnet's import: the import of the package alone is light, the task's registers."""
    program = (
        "import sys\n"
        "heavy = [m for m in ('torch', 'espnet', 'espnet2') if m in sys.modules]\n"
        "from espnet2.tasks.s2t import encoder_choices, decoder_choices, model_choices\n"
        "names = encoder_choices.classes['gated_e_branchformer'], decoder_choices.classes['gated_transformer']\n"
        "print(heavy, *(c.__name__ for c in (*names, model_choices.classes['gated'])))\n"
    )
    command = [sys.executable, "-m", "espnet_gated", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    expected = "[] GatedEBranchformerEncoder GatedTransformerDecoder GatedESPnetS2TModel"
    assert result.stdout.splitlines()[-1] == expected
