"""Fetch and unpack Debian packages without root.

``downloads_dir`` holds ``debs/<package>_<version>_all.deb`` as fetched and ``unpacked/<package>/usr/
share/...``. Both are reused, so a re-run needs no network, and a machine without apt-get can be
given the ``.deb`` files or the unpacked trees.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

NETWORK_SECONDS = 600


class FetchError(RuntimeError):
    """A package could be neither found nor fetched."""


def unpack_packages(names: Sequence[str], downloads_dir: Path) -> dict[str, Path]:
    """Make sure that the packages lie unpacked below ``downloads_dir``.

    Returns:
        package name -> root of its unpacked tree (the directory that holds ``usr``).

    Raises:
        FetchError: saying what is missing (a tool, the network, a package) and what to do.
    """
    roots = {name: downloads_dir / "unpacked" / name for name in names}
    missing = [name for name in names if not roots[name].is_dir()]
    if missing:
        debs = fetch_debs(missing, downloads_dir / "debs")
        for name in missing:
            _unpack(debs[name], roots[name])
    return roots


def fetch_debs(names: Sequence[str], deb_dir: Path) -> dict[str, Path]:
    """Make sure that ``deb_dir`` holds a ``.deb`` of each package, through ``apt-get download``."""
    deb_dir = deb_dir.resolve()  # apt takes relative paths as its own
    deb_dir.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in names if _find_deb(name, deb_dir) is None]
    if wanted:
        _download(wanted, deb_dir)
    return {name: _existing_deb(name, deb_dir) for name in names}


def describe_debs(names: Sequence[str], downloads_dir: Path) -> list[str]:
    """One line for each package: file name and SHA-256, or that only its tree is there."""
    lines = []
    for name in names:
        deb = _find_deb(name, downloads_dir / "debs")
        if deb is None:
            lines.append(f"{name} (unpacked by hand)")
        else:
            lines.append(f"{deb.name} sha256:{hashlib.sha256(deb.read_bytes()).hexdigest()}")
    return lines


def _download(names: Sequence[str], deb_dir: Path) -> None:
    """Fetch with the system's package lists, else with lists of our own, fetched without root."""
    by_hand = f"put the .deb files (packages.debian.org, architecture 'all') into {deb_dir}"
    wanted = " ".join(names[:3]) + (f" and {len(names) - 3} more packages" if len(names) > 3 else "")
    if shutil.which("apt-get") is None:
        raise FetchError(f"apt-get is not here to fetch {wanted}; run this on Debian or Ubuntu, or {by_hand}")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=deb_dir) as temp:
        folder = Path(temp)
        if _apt_get(["download", *names], folder):
            own = _private_state(folder / "apt")
            failed_update = _apt_get([*own, "-o", "APT::Update::Error-Mode=any", "update"], folder)
            failed = _apt_get([*own, "download", *names], folder)
            if failed:
                raise FetchError(
                    f"apt-get could not fetch {wanted} ({failed_update or failed}); is there a network, and do the "
                    f"package sources hold Debian's main or Ubuntu's universe? You may also {by_hand}"
                )
        for deb in folder.glob("*.deb"):
            os.replace(deb, deb_dir / deb.name)


def _private_state(state: Path) -> list[str]:
    """apt options that keep its lists and caches below ``state``, where no root is needed."""
    lists, cache = state / "lists", state / "cache"
    for folder in (lists / "partial", cache / "archives" / "partial"):
        folder.mkdir(parents=True)
    return ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]


def _apt_get(arguments: Sequence[str], folder: Path) -> str:
    """Run apt-get in ``folder``; the line that says why if it failed, else nothing."""
    # Without this, root's apt-get changes to a user who may not write into the folder.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NETWORK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {NETWORK_SECONDS} s"
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    said.append(f"exit status {done.returncode}")
    return next((line for line in said if "Failed to fetch" in line), said[0])


def _unpack(deb: Path, root: Path) -> None:
    """Unpack a ``.deb`` as a whole or not at all."""
    if shutil.which("dpkg-deb") is None:
        raise FetchError(f"dpkg-deb is not here, so {deb} cannot be unpacked; install dpkg")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=root.parent) as temp:
        tree = Path(temp) / "tree"
        tree.mkdir()
        command = ["dpkg-deb", "-x", str(deb), str(tree)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            raise FetchError(f"{deb} cannot be unpacked ({done.stderr.strip()}); remove it to have it fetched again")
        os.rename(tree, root)


def _find_deb(name: str, deb_dir: Path) -> Path | None:
    return max(deb_dir.glob(f"{name}_*.deb"), default=None)


def _existing_deb(name: str, deb_dir: Path) -> Path:
    deb = _find_deb(name, deb_dir)
    if deb is None:
        raise FetchError(f"apt-get ended well but left no {name}_*.deb in {deb_dir}")
    return deb
