"""Metadata and lock file agree, and the lock can be used anywhere."""

import re
from pathlib import Path
from unittest import mock

import pytest
from packaging.requirements import Requirement

import espnet_gated

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def metadata():
    with mock.patch("setuptools.setup") as setup:
        source = (ROOT / "setup.py").read_text(encoding="utf-8")
        exec(compile(source, str(ROOT / "setup.py"), "exec"), {"__file__": str(ROOT / "setup.py")})
    return setup.call_args.kwargs


def locked():
    """Name -> versions, one for each range of Python versions that needs its own."""
    versions = {}
    for line in LOCK.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line):
            versions.setdefault(match[1].lower(), []).append(match[2])
    return versions


def test_the_version_is_the_package_s(metadata):
    assert metadata["version"] == espnet_gated.__version__


def test_the_lock_is_within_the_ranges(metadata):
    versions = locked()
    for text in {*metadata["install_requires"], *metadata["extras_require"]["dev"]}:
        wanted = Requirement(text)
        name = wanted.name.lower().replace("_", "-")
        assert name in versions, f"{text}: not in requirements.lock (make lock)"
        for version in versions[name]:
            assert wanted.specifier.contains(version), f"{text}: locked {version} (make lock)"


def test_the_lock_holds_exact_versions_and_no_places():
    lines = [line for line in LOCK.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert all(re.match(r"[A-Za-z0-9._-]+==\S+( ; .+)?$", line) for line in lines)
    assert not re.search(r"://|--index|--find-links|@ |(^|\s)/\w", LOCK.replace("--no-emit-find-links", ""))


def test_every_subpackage_is_installed(metadata):
    folders = {p.parent.relative_to(ROOT).as_posix() for p in (ROOT / "espnet_gated").rglob("*.py")}
    assert set(metadata["packages"]) == {folder.replace("/", ".") for folder in folders}
