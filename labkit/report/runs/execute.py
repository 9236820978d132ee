"""Execute one notebook: `python -m labkit.report.runs.execute IN OUT PARAMETERS [FOLLOW]`.

The kernel is the interpreter that runs this, whatever kernels the user has registered. PARAMETERS
is a JSON object. FOLLOW: "stdin" ends this process, and its kernel, with the one that holds the
other end of its standard input.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from labkit.base.paths import atomic_write
from labkit.report.runs import tether

CELL_FAILED, KERNEL_DIED, OTHER, NOT_WRITTEN = 1, 3, 4, 5
FOLLOW = "stdin"


def execute(source: Path, target: Path, parameters: dict[str, object]) -> int:
    """Execute a notebook into `target`, as far as it goes.

    Returns 0, or CELL_FAILED, KERNEL_DIED, NOT_WRITTEN or OTHER.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    from labkit.report.runs.kernel import PatientKernelManager, this_interpreter

    with tempfile.TemporaryDirectory(prefix="labkit-kernel-") as folder:
        kernel = this_interpreter(Path(folder))
        try:
            papermill.execute_notebook(
                str(source),
                str(target),
                parameters=parameters,
                kernel_name=kernel,
                kernel_manager_class=PatientKernelManager,
                language="python",
                cwd=str(source.parent),
                progress_bar=sys.stderr.isatty(),
                log_output=False,
            )
        except papermill.exceptions.PapermillExecutionError as error:
            print(f"cell {error.exec_count}: {error.ename}: {error.evalue}", file=sys.stderr)
            return CELL_FAILED
        except DeadKernelError:
            print("the kernel died, often because memory ran out", file=sys.stderr)
            return KERNEL_DIED
        except OSError as error:
            print(error.strerror or error, file=sys.stderr)
            return NOT_WRITTEN
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return OTHER
    return 0


def forget_paths(notebook: Path) -> None:
    """Remove this machine's folders from papermill's metadata, so that a run can be shared.

    Raises OSError where the notebook cannot be written.
    """
    try:
        content = json.loads(notebook.read_text(encoding="utf-8"))
        metadata = content["metadata"]["papermill"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # incomplete or not written; the caller reports it
    for name in ("input_path", "output_path"):
        metadata[name] = Path(metadata.get(name) or "").name
    atomic_write(notebook, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main(source: Path, target: Path, parameters: dict[str, object]) -> int:
    """Execute a notebook; the result names no folder of this machine."""
    code = execute(source, target, parameters)
    try:
        forget_paths(target)
    except OSError as error:
        print(error.strerror or error, file=sys.stderr)
        return code or NOT_WRITTEN
    return code


def command(given: Sequence[str]) -> int:
    """What is given on the command line; exit code 2 for what cannot be understood."""
    try:
        source, target, text, *follow = given
        parameters = json.loads(text)
        if not isinstance(parameters, dict) or follow not in ([], [FOLLOW]):
            raise ValueError
    except ValueError:
        print("give IN OUT PARAMETERS [stdin], PARAMETERS being a JSON object", file=sys.stderr)
        return 2
    if follow:
        tether.follow(sys.stdin.fileno())
    return main(Path(source), Path(target), parameters)


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
