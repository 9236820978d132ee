"""AMX: what a build is told by the processor's flags and by a probe that really ran."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from labkit.bench import amx, install


@pytest.mark.parametrize(
    ("promised", "works", "found"),
    [(False, True, amx.NONE), (True, True, amx.USED), (True, False, amx.LEFT_OUT)],
)
def test_a_build_uses_amx_where_a_probe_ran(promised: bool, works: bool, found: amx.Amx) -> None:
    assert amx.probe("c++", lambda: promised, lambda compiler: works) is found


@pytest.mark.parametrize(
    ("text", "promised"),
    [
        ("model name\t: X\nflags\t\t: sse2 amx_tile amx_int8\n", True),
        ("flags\t\t: sse2 avx512_vnni\nbugs\t\t: amx_int8\n", False),
        ("", False),
    ],
)
def test_the_processors_flags_promise_it(text: str, promised: bool, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert amx.is_promised(file) == promised
    assert not amx.is_promised(tmp_path / "none")


def test_a_probe_that_cannot_be_compiled_or_dies_does_not_run(tmp_path: Path) -> None:
    assert not amx.runs("no-such-compiler")
    dies = tmp_path / "compiler"
    dies.write_text('#!/bin/sh\nfor last; do :; done\nprintf "#!/bin/sh\\nkill -ILL \\$\\$\\n" > ')
    dies.write_text(dies.read_text() + '"$last"\nchmod +x "$last"\n')
    dies.chmod(0o755)
    assert not amx.runs(str(dies))


@pytest.mark.skipif(not amx.is_promised(), reason="the processor names no AMX")
@pytest.mark.skipif(install.compiler() is None, reason="no C++ compiler")
def test_macros_leave_amx_out_and_the_header_stands_in(tmp_path: Path) -> None:
    compiler = install.compiler()
    assert compiler is not None
    source = tmp_path / "asks.cpp"
    source.write_text("#if defined(__AMX_INT8__)\n#error it is used\n#endif\n")
    folder = amx._PROBE.parent
    for chosen, used in ((amx.USED, True), (amx.LEFT_OUT, False)):
        flags = chosen.flags.format(folder=folder).split()
        command = [compiler, *flags, "-march=native", "-fsyntax-only", str(source)]
        said = subprocess.run(command, capture_output=True, text=True)
        assert ("it is used" in said.stderr) == used


def test_flags_and_what_they_mean_are_in_the_stamp_and_in_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(install, "amx_of_build", lambda: amx.LEFT_OUT)
    monkeypatch.setenv("CXXFLAGS", "-g")
    monkeypatch.setenv("LABKIT_PEERS", str(tmp_path))
    pin = install.Pin("some", ("a==1",), ("a",), cmake="-DX=ON", amx=True)
    environment = install._build_environment(pin)
    assert environment["CXXFLAGS"] == f"-g {amx.LEFT_OUT.flags}"
    assert environment["CFLAGS"] == amx.LEFT_OUT.flags
    assert pin.stamp()["amx"] == amx.LEFT_OUT.says
    (tmp_path / "some").mkdir()
    install.write_stamp(pin)
    assert install.built("some", "uses AVX2") == (
        f"compiled here with -DX=ON; {amx.LEFT_OUT.says}; uses AVX2"
    )


def test_a_wheel_is_called_one_and_what_is_not_installed_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LABKIT_PEERS", str(tmp_path))
    (tmp_path / "wheel").mkdir()
    install.write_stamp(install.Pin("wheel", ("a==1",)))
    assert install.built("wheel") == "ready-made wheel"
    assert install.built("none", "as it says") == "as it says"
    assert install.link_of("none") == ""


def test_every_peer_has_a_page() -> None:
    assert all(pin.link.startswith("https://") for pin in install.read_pins().values())
