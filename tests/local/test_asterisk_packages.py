"""Fetching Debian packages without root, with stand-ins for apt-get and dpkg-deb."""

import os

import pytest

from local.asterisk import packages
from local.prepare_asterisk import main


def fake_tool(folder, name, script):
    file = folder / name
    file.write_text(f"#!/bin/bash\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A PATH with stand-ins alone; every call of apt-get is written to calls.txt."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "touch", "mkdir"):
        os.symlink(f"/bin/{name}", folder / name)
    monkeypatch.setenv("PATH", str(folder))
    return folder


# writes its words to calls.txt and, asked to download, leaves an empty package
APT_GET = 'echo "$@" >>{calls}; if [[ "$*" = *" download "* ]]; then touch "${{@: -1}}_1.0_all.deb"; fi'


def test_fetch_and_unpack(tools, tmp_path):
    calls = tmp_path / "calls.txt"
    fake_tool(tools, "apt-get", APT_GET.format(calls=calls))
    fake_tool(tools, "dpkg-deb", 'mkdir -p "$3/usr/share"')
    roots = packages.unpack_packages(["some-sounds"], tmp_path / "down")
    assert (roots["some-sounds"] / "usr" / "share").is_dir()
    assert packages.describe_debs(["some-sounds"], tmp_path / "down")[0].startswith(
        "some-sounds_1.0_all.deb sha256:e3b0"
    )
    packages.unpack_packages(["some-sounds"], tmp_path / "down")
    assert len(calls.read_text().splitlines()) == 1  # the second time nothing is fetched


def test_without_package_lists_own_ones_are_fetched(tools, tmp_path):
    calls = tmp_path / "calls.txt"
    fake_tool(
        tools,
        "apt-get",
        '[[ "$*" = *Dir::State::Lists=/* ]] || exit 100; ' + APT_GET.format(calls=calls),
    )
    packages.fetch_debs(["some-sounds"], tmp_path / "debs")
    update, download = calls.read_text().splitlines()
    assert update.endswith(" update") and download.endswith(" download some-sounds")
    assert [file.name for file in (tmp_path / "debs").iterdir()] == ["some-sounds_1.0_all.deb"]


def test_no_network(tools, tmp_path):
    fake_tool(tools, "apt-get", "echo 'E: Failed to fetch http://mirror: no route' >&2; exit 100")
    with pytest.raises(packages.FetchError, match="could not fetch some-sounds .*no route.*is there a network"):
        packages.unpack_packages(["some-sounds"], tmp_path / "down")
    assert not list((tmp_path / "down" / "debs").iterdir())


def test_no_apt(tools, tmp_path, capsys):
    arguments = ["--data_dir", str(tmp_path / "data"), "--downloads_dir", str(tmp_path / "down")]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "apt-get is not here" in error
    assert str(tmp_path / "down" / "debs") in error
    assert not (tmp_path / "data").exists()


def test_broken_package(tools, tmp_path):
    (tmp_path / "debs").mkdir()
    (tmp_path / "debs" / "some-sounds_1.0_all.deb").write_bytes(b"")
    fake_tool(tools, "dpkg-deb", "echo 'not a Debian archive' >&2; exit 2")
    with pytest.raises(packages.FetchError, match="some-sounds_1.0_all.deb cannot be unpacked .not a Debian archive"):
        packages.unpack_packages(["some-sounds"], tmp_path)
    assert not (tmp_path / "unpacked" / "some-sounds").exists()
