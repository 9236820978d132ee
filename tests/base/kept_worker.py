"""Makes one folder that is kept, as several processes at once do; says what it then found there."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from labkit.base.kept import keep


def main(folder: Path, begin: float) -> None:
    """Make the folder once `begin` has come, read it, and print what it holds."""

    def make(to: Path) -> None:
        for number in range(20):
            (to / str(number)).write_bytes(bytes(1000))

    while time.time() < begin:
        pass
    found = keep(folder, "from this", make)
    for _ in range(50):
        sizes = {path.stat().st_size for path in found.iterdir() if path.name != "kept.json"}
        assert sizes == {1000}
        time.sleep(0.001)
    print("whole")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
