"""The Python the daemons and the tests run with: a venv with pinned packages and the product.

It is outside of the checkout, because the user `minicloud` may not be allowed to read that.  What
is in it is named by hashes that are written last: an interrupted install is simply done again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from launcher import files
from launcher.report import Failure, say

CHECKOUT = Path(__file__).resolve().parents[2]
RUNTIME = CHECKOUT / "requirements.txt"
DEVELOPMENT = CHECKOUT / "requirements-dev.txt"
DEBIAN_MODULES = Path("/usr/lib/python3/dist-packages")
LIBVIRT = ("libvirt.py", "libvirt_qemu.py", "libvirtmod*.so", "libvirtmod_qemu*.so")


def path() -> Path:
    """Where this checkout's venv is; MINICLOUD_VENV overrides."""
    if os.environ.get("MINICLOUD_VENV"):
        return Path(os.environ["MINICLOUD_VENV"]).absolute()
    name = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:12]
    if os.geteuid() == 0:
        return Path("/opt/minicloud") / name
    return Path.home() / ".cache" / "minicloud" / name


def python() -> Path:
    """The venv's interpreter."""
    return path() / "bin" / "python"


def program(name: str) -> Path:
    """A console script in the venv."""
    return path() / "bin" / name


def install(*, development: bool, libvirt: bool, quiet: bool = False) -> None:
    """The venv holds the pinned packages and the product as it is in the checkout now.

    Cheap when nothing changed; two installs of one venv take turns.
    """
    with _alone():
        wanted = [RUNTIME, DEVELOPMENT] if development else [RUNTIME]
        if any(_marker(file) != _digest([file]) for file in wanted):
            _install_third_party(wanted)
        if libvirt:
            _link_libvirt()
        sources = _digest(_sources())
        if _read(path() / "product") != sources:
            _install_product(sources, quiet=quiet)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    path().mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(path(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _install_third_party(wanted: list[Path]) -> None:
    say(f"installing Python packages into {path()}")
    if not _usable():
        _run([sys.executable, "-m", "venv", "--clear", str(path())])
    before = _frozen()
    arguments = [argument for file in wanted for argument in ("-r", str(file))]
    _pip("install", *arguments)
    for line in sorted(_frozen() - before):
        say(f"installed Python package {line.replace('==', ' ')}")
    for file in wanted:
        files.write(path() / file.name, _digest([file]), 0o644)


def _usable() -> bool:
    """False for a venv that was never finished, or whose Python was upgraded since."""
    if not python().exists():
        return False
    asked = [str(python()), "-m", "pip", "--version"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def _install_product(sources: str, *, quiet: bool) -> None:
    """Built from a copy: building writes into the tree it builds."""
    if not quiet:
        say("installing minicloud itself")
    with tempfile.TemporaryDirectory(prefix="minicloud-") as temporary:
        copy = Path(temporary) / "minicloud"
        for source in _sources():
            target = copy / source.relative_to(CHECKOUT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        _pip(
            "install", "--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall",
            str(copy),
        )  # fmt: skip
    files.write(path() / "product", sources, 0o644)


def _link_libvirt() -> None:
    """Debian's libvirt module is in the venv: the one on PyPI would have to be compiled."""
    packages = path() / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    for pattern in LIBVIRT:
        for module in DEBIAN_MODULES.glob(pattern):
            link = packages / module.name
            if not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(module)


def _sources() -> list[Path]:
    """What the installed product is made of."""
    named = [CHECKOUT / name for name in ("setup.cfg", "setup.py", "pyproject.toml")]
    package = CHECKOUT / "minicloud"
    inside = [
        file
        for file in package.rglob("*")
        if file.is_file() and file.suffix != ".pyc" and not file.name.startswith(".")
    ]
    readme = [file for file in (CHECKOUT / "README.md", CHECKOUT / "LICENSE") if file.exists()]
    return sorted(named + inside + readme)


def _digest(sources: Iterable[Path]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for source in sources:
        digest.update(f"{source.relative_to(CHECKOUT)}\0".encode())
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


def _marker(file: Path) -> str:
    return _read(path() / file.name)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _frozen() -> set[str]:
    listed = _run([str(python()), "-m", "pip", "list", "--format=freeze"])
    return set(listed.splitlines())


def _pip(*arguments: str) -> None:
    _run([str(python()), "-m", "pip", "--disable-pip-version-check", "-q", *arguments])


def _run(argv: list[str]) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise Failure(
            f"{' '.join(argv[:4])} … ended with {done.returncode}:\n{last}",
            "see that the package index can be reached, then run this command again",
        )
    return done.stdout
