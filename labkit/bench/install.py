"""Make the peers' environments: `python -m labkit.bench.install [PEER ...]`.

Each peer gets a virtual environment of its own: nothing of theirs enters ours, and no two of them
share one (two bring a libllama each). They are installed one by one. Of one that fails the last
lines of its log are printed, and the others go on. A second call does nothing for a peer whose pins
are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tqdm.auto import tqdm

from labkit.base.paths import atomic_write, project_root, read_json
from labkit.bench import amx
from labkit.errors import LabkitError, ParameterError

PINS = Path(__file__).with_name("pins.yaml")
_STAMP = "labkit-stamp.json"
_LAST_LINES = 12


class InstallError(LabkitError):
    """A peer that could not be installed; the message ends with its own last lines."""


@dataclass(frozen=True)
class Pin:
    """What a peer's environment is made of."""

    peer: str
    packages: tuple[str, ...]
    build: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    cmake: str = ""
    minutes: int = 1
    link: str = ""
    amx: bool = False

    def stamp(self) -> dict[str, Any]:
        """What an environment was made from: another stamp makes it anew."""
        return {
            "packages": list(self.packages),
            "build": list(self.build),
            "cmake": self.cmake,
            **({"without": list(self.without)} if self.without else {}),
            **({"amx": amx_of_build().says, "flags": amx_of_build().flags} if self.amx else {}),
            "python": platform.python_version(),
            "machine": platform.machine(),
        }


def read_pins(path: Path = PINS) -> dict[str, Pin]:
    """The pins file, by peer."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        peer: Pin(
            peer,
            tuple(entry["packages"]),
            tuple(entry.get("build", ())),
            tuple(entry.get("without", ())),
            entry.get("cmake", ""),
            entry.get("minutes", 1),
            entry.get("link", ""),
            entry.get("amx", False),
        )
        for peer, entry in raw.items()
    }


def peers_root() -> Path:
    """Where the peers' environments are: $LABKIT_PEERS, or .venv-peers in the project."""
    override = os.environ.get("LABKIT_PEERS")
    return Path(override).expanduser() if override else project_root() / ".venv-peers"


def peer_python(peer: str) -> Path:
    """The interpreter of a peer's environment, whether or not it is there."""
    folder = peers_root() / peer
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_installed(peer: str) -> bool:
    """Whether the peer was installed to the end (with these pins or earlier ones)."""
    return (peers_root() / peer / _STAMP).exists() and peer_python(peer).exists()


def is_current(pin: Pin) -> bool:
    """Whether the peer is installed with just these pins."""
    kept = read_json(peers_root() / pin.peer / _STAMP)
    return bool(kept == pin.stamp()) and peer_python(pin.peer).exists()


def _own_flags(cmake: str) -> str:
    """The flags that say how it was built; those that name our files say nothing to a reader."""
    return " ".join(flag for flag in cmake.split() if "{folder}" not in flag)


def built(peer: str, says: str = "") -> str:
    """How an installed peer came about: as a wheel or compiled here, and with which flags.

    says: what the engine itself says of its build.
    """
    kept = read_json(peers_root() / peer / _STAMP)
    if not kept:
        return says
    here = (
        f"compiled here with {_own_flags(str(kept.get('cmake', '')))}"
        if kept.get("build")
        else "ready-made wheel"
    )
    with_amx = f"; {kept.get('amx', '')}" if kept.get("flags") else ""
    return f"{here}{with_amx}" + (f"; {says}" if says else "")


def link_of(peer: str) -> str:
    """The page of a peer's project; "" for none in the pins."""
    pin = read_pins().get(peer)
    return pin.link if pin else ""


def compiler() -> str | None:
    """The C++ compiler that a build here takes."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    return next((name for name in names if name and shutil.which(name)), None)


@cache
def amx_of_build() -> amx.Amx:
    """What a build here does with AMX."""
    return amx.probe(compiler() or "c++")


def check_tools(pin: Pin) -> None:
    """InstallError when a peer is built here and there is no C++ compiler."""
    if pin.build and not compiler():
        raise InstallError(
            f"{pin.peer} is built from source and no C++ compiler is here (looked for $CXX, c++, "
            "g++, clang++). Install one, say the packages g++ or clang, and run this again. "
            "CMake need not be there: pip brings it for the build."
        )


def _pip_command(pin: Pin) -> list[str]:
    command = [str(peer_python(pin.peer)), "-m", "pip", "install"]
    command += ["--disable-pip-version-check", "--progress-bar", "off"]
    for package in pin.build:
        command += ["--no-binary", package]
    # A wheel kept from an earlier build may have been made with other flags.
    return command + (["--no-cache-dir"] if pin.build else []) + list(pin.packages)


def _build_environment(pin: Pin) -> dict[str, str]:
    changed = dict(os.environ)
    changed.pop("PYTHONPATH", None)
    if pin.cmake:
        changed["CMAKE_ARGS"] = pin.cmake.format(folder=PINS.parent)
        changed.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    if pin.amx:
        flags = amx_of_build().flags.format(folder=PINS.parent)
        for name in ("CFLAGS", "CXXFLAGS"):
            changed[name] = f"{changed.get(name, '')} {flags}".strip()
    return changed


def _run(command: Sequence[str], env: dict[str, str], log: Path, title: str) -> int:
    """Run to the end with a line that shows the time; all output goes to `log`."""
    # In a file, one line when it begins: a clock that moves is for a terminal.
    line = "{desc} {elapsed}" if sys.stderr.isatty() else "{desc}\n"
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env) as process,
        tqdm(desc=title, bar_format=line, leave=False) as bar,
    ):
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if sys.stderr.isatty():
                    bar.refresh()
        except BaseException:
            process.kill()
            raise
    return process.returncode


def last_lines(text: str, count: int = _LAST_LINES) -> str:
    """The end of a log, blank lines left out."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


def install(pin: Pin) -> None:
    """Make the peer's environment from nothing; InstallError with its last lines if it fails."""
    check_tools(pin)
    folder = peers_root() / pin.peer
    log = peers_root() / f"{pin.peer}.log"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _STAMP).unlink(missing_ok=True)
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InstallError(f"{pin.peer}: no virtual environment could be made: {error}") from error
    how = f"; {amx_of_build().says}" if pin.amx else ""
    title = f"{pin.peer}: installing (about {pin.minutes} min on two cores{how})"
    commands = [_pip_command(pin)]
    if pin.without:
        pip = [str(peer_python(pin.peer)), "-m", "pip"]
        commands.append([*pip, "uninstall", "--yes", *pin.without])
    if any(_run(command, _build_environment(pin), log, title) for command in commands):
        tail = last_lines(log.read_text(encoding="utf-8", errors="replace"))
        raise InstallError(f"{pin.peer} could not be installed; all of it is in {log}:\n{tail}")
    write_stamp(pin)


def write_stamp(pin: Pin) -> None:
    """Say that the peer was installed to the end, and from what."""
    atomic_write(peers_root() / pin.peer / _STAMP, json.dumps(pin.stamp(), indent=1))


def select(names: Sequence[str], pins: dict[str, Pin]) -> list[Pin]:
    """The pins of the peers named, all of them by default; ParameterError for an unknown one."""
    if unknown := [name for name in names if name not in pins]:
        raise ParameterError(f"no peer {unknown[0]!r}; known: {', '.join(pins)}.")
    return [pins[name] for name in names or pins]


def install_all(names: Sequence[str] = (), force: bool = False) -> dict[str, str]:
    """Install what is missing or changed; {peer: "" or the message of its failure}."""
    outcome: dict[str, str] = {}
    for pin in select(names, read_pins()):
        if is_current(pin) and not force:
            print(f"{pin.peer}: installed already")
            outcome[pin.peer] = ""
            continue
        try:
            install(pin)
            outcome[pin.peer] = ""
            print(f"{pin.peer}: installed")
        except (LabkitError, OSError) as error:
            outcome[pin.peer] = str(error)
            print(f"{pin.peer}: FAILED\n{error}", file=sys.stderr)
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every named peer is installed, 1 when one failed, 2 for an unknown name."""
    parser = argparse.ArgumentParser(description="Install other inference engines to compare with.")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=", ".join(read_pins()))
    parser.add_argument("--force", action="store_true", help="install again what is there")
    given = parser.parse_args(arguments)
    try:
        outcome = install_all(given.peers, given.force)
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    failed = [peer for peer, message in outcome.items() if message]
    print(f"{len(outcome) - len(failed)} of {len(outcome)} peers installed in {peers_root()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
