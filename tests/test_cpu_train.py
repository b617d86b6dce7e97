"""The launcher of data-parallel training on CPU."""

import sys

import pytest

from espnet_gated.bin import cpu_train


def test_one_process_is_left_alone():
    (command,) = cpu_train.commands("espnet2.bin.s2t_train", ["--config", "c.yaml"], 1, "/m")
    assert command == [sys.executable, "-m", "espnet_gated", "-m", "espnet2.bin.s2t_train", "--config", "c.yaml"]


def test_ranks_share_a_meeting_point():
    lines = cpu_train.commands("espnet2.bin.s2t_train", [], 3, "/m")
    assert [line[-1] for line in lines] == ["0", "1", "2"]
    assert all("file:///m" in line and line[line.index("--dist_world_size") + 1] == "3" for line in lines)


@pytest.mark.parametrize(("failing", "expected"), [(None, 0), (0, 3), (1, 3)])
def test_a_failing_process_stops_all(tmp_path, monkeypatch, capfd, failing, expected):
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, time\n"
        "rank = sys.argv[sys.argv.index('--dist_rank') + 1]\n"
        f"if rank == '{failing}':\n    print('broken', file=sys.stderr); sys.exit(3)\n"
        f"time.sleep({0 if failing is None else 60})\n"
    )
    plain = cpu_train.commands

    def commands(*args):
        return [[sys.executable, str(script), *line[5:]] for line in plain(*args)]

    monkeypatch.setattr(cpu_train, "commands", commands)
    assert cpu_train.run("job", [], 2) == expected
    if failing is not None:
        assert "broken" in capfd.readouterr().err


def test_all_that_failed_are_heard(tmp_path, monkeypatch, capfd):
    """Rank 0 may only have lost its connection to the one that failed."""
    script = tmp_path / "job.py"
    script.write_text(
        "import pathlib, sys, time\n"
        "rank, failed = sys.argv[sys.argv.index('--dist_rank') + 1], pathlib.Path(sys.argv[0]).with_name('failed')\n"
        "while rank == '0' and not failed.exists():\n    time.sleep(0.01)\n"
        "print('lost' if rank == '0' else 'out of memory', file=sys.stderr, flush=True)\n"
        "failed.touch(); sys.exit(3)\n"
    )
    monkeypatch.setattr(cpu_train, "POLL_SECONDS", 5.0)
    plain = cpu_train.commands
    monkeypatch.setattr(cpu_train, "commands", lambda *a: [[sys.executable, str(script), *c[5:]] for c in plain(*a)])
    assert cpu_train.run("job", [], 2) == 3
    said = capfd.readouterr().err
    assert "lost" in said and "process 1 of 2 failed:\nout of memory" in said


def test_number_of_processes_is_checked(capsys):
    assert cpu_train.main(["--processes", "0", "espnet2.bin.s2t_train"]) == 2
    assert "--processes" in capsys.readouterr().err
