"""Fetch and unpack Debian packages without root.

``downloads_dir`` holds ``debs/<package>_<version>_all.deb`` as fetched and ``unpacked/<package>/usr/
share/...``. Both are reused, so a re-run needs no network, and a machine without apt-get can be
given the ``.deb`` files or the unpacked trees. The packages in ``PINNED`` come from a mirror of Debian's
instead, since they are in parts of it (non-free) that few systems name.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NETWORK_SECONDS = 600
MIRRORS = ("https://deb.debian.org/debian/", "https://snapshot.debian.org/archive/debian/20250901T000000Z/")


@dataclass(frozen=True)
class Pinned:
    """A package of Debian 12 in one exact version, fetched past apt: not every system's sources have it.

    Args:
        path: below a mirror.
        sha256: of the file.
    """

    path: str
    sha256: str

    @property
    def deb(self) -> str:
        """Name of the file."""
        return self.path.rpartition("/")[2]


PINNED = {
    "installation-guide-amd64": Pinned(
        "pool/main/i/installation-guide/installation-guide-amd64_20230508+deb12u1_all.deb",
        "812c43e1dc906daf671e3efe953dc023205c238e5bd5a3021ce4ca142793573a",
    ),
    "libttspico0": Pinned(
        "pool/non-free/s/svox/libttspico0_1.0+git20130326-13_amd64.deb",
        "fc9e4dbc664a7756ae73e83633d9987e6b0f2fd5248f04def8beb8de6df2cd02",
    ),
    "libttspico-data": Pinned(
        "pool/non-free/s/svox/libttspico-data_1.0+git20130326-13_all.deb",
        "25c9904cef2471302634c03deff3ca96b588e22ea94929dda72d940584a3b84a",
    ),
    "libsonic0": Pinned(
        "pool/main/s/sonic/libsonic0_0.2.0-12_amd64.deb",
        "9d60de6918ace0b10e3e4e95421befd08aaf03b5b2a3d71ceb799e0cf259916f",
    ),
    "librhvoice-core7": Pinned(
        "pool/non-free/r/rhvoice/librhvoice-core7_1.8.0+dfsg-3_amd64.deb",
        "7b321d21caf899c78e579593f105fd49995f4d0c948c0523b2b4baa3291375f5",
    ),
    "librhvoice5": Pinned(
        "pool/non-free/r/rhvoice/librhvoice5_1.8.0+dfsg-3_amd64.deb",
        "7a12f124a48941ec0e94aeaa60da44a27c164a31d5a6bb884875e533a6d15128",
    ),
    "rhvoice-english": Pinned(
        "pool/non-free/r/rhvoice/rhvoice-english_1.8.0+dfsg-3_all.deb",
        "7ea5227bcfc54b814086f53225ff47052b444d4554e8c4e752c9e6b29edf89a5",
    ),
    "rhvoice-russian": Pinned(
        "pool/non-free/r/rhvoice/rhvoice-russian_1.8.0+dfsg-3_all.deb",
        "1892955b9d779abb67963842f124fb2192810e7bb9976ad3a4cbdea7a99ac838",
    ),
}


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
            _unpack([debs[name]], roots[name])
    return roots


def unpack_pinned(names: Sequence[str], downloads_dir: Path) -> Path:
    """Make sure that packages of :data:`PINNED` lie unpacked below ``downloads_dir``, all in one tree.

    Returns:
        The tree (the directory that holds ``usr``).

    Raises:
        FetchError: saying what is missing and what to do.
    """
    libraries = [name for name in names if "_amd64" in PINNED[name].deb]
    if libraries and platform.machine() not in ("x86_64", "AMD64"):
        raise FetchError(f"{' '.join(libraries)} need an x86-64 machine, this is {platform.machine()}; go without them")
    key = hashlib.sha256(repr([PINNED[name] for name in sorted(names)]).encode()).hexdigest()[:12]
    root = downloads_dir / "unpacked" / f"pinned-{key}"
    if not root.is_dir():
        _unpack([_fetch_pinned(PINNED[name], downloads_dir / "debs") for name in names], root)
    return root


def _fetch_pinned(package: Pinned, deb_dir: Path) -> Path:
    deb_dir.mkdir(parents=True, exist_ok=True)
    deb = deb_dir / package.deb
    if deb.is_file():
        _check_sum(deb, package, deb.read_bytes())
        return deb
    failures = []
    for mirror in MIRRORS:
        url = mirror + urllib.parse.quote(package.path)
        try:
            with urllib.request.urlopen(url, timeout=NETWORK_SECONDS) as answer:
                octets = answer.read()
        except OSError as error:
            failures.append(f"{url}: {error}")
            continue
        _check_sum(url, package, octets)
        partial = deb.with_suffix(".part")
        partial.write_bytes(octets)
        partial.replace(deb)
        return deb
    raise FetchError(f"could not fetch {package.deb} ({'; '.join(failures)}); you may put it into {deb_dir} by hand")


def _check_sum(where: object, package: Pinned, octets: bytes) -> None:
    found = hashlib.sha256(octets).hexdigest()
    if found != package.sha256:
        raise FetchError(f"{where}: SHA-256 must be {package.sha256}, got {found}; remove the file to fetch it again")


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


def _unpack(debs: Sequence[Path], root: Path) -> None:
    """Unpack ``.deb`` files into one tree, as a whole or not at all."""
    if shutil.which("dpkg-deb") is None:
        raise FetchError(f"dpkg-deb is not here, so {debs[0]} cannot be unpacked; install dpkg")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=root.parent) as temp:
        tree = Path(temp) / "tree"
        tree.mkdir()
        for deb in debs:
            command = ["dpkg-deb", "-x", str(deb), str(tree)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if done.returncode != 0:
                raise FetchError(
                    f"{deb} cannot be unpacked ({done.stderr.strip()}); remove it to have it fetched again"
                )
        os.rename(tree, root)


def _find_deb(name: str, deb_dir: Path) -> Path | None:
    return max(deb_dir.glob(f"{name}_*.deb"), default=None)


def _existing_deb(name: str, deb_dir: Path) -> Path:
    deb = _find_deb(name, deb_dir)
    if deb is None:
        raise FetchError(f"apt-get ended well but left no {name}_*.deb in {deb_dir}")
    return deb
