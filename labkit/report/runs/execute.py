"""Execute one notebook: `python -m labkit.report.runs.execute IN OUT PARAMETERS`.

The kernel is the interpreter that runs this, whatever kernels the user has registered. PARAMETERS
is a JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from labkit.base.paths import atomic_write

CELL_FAILED, KERNEL_DIED, OTHER, NOT_WRITTEN = 1, 3, 4, 5


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
    """Remove this machine's folders from papermill's metadata, so that a run can be shared."""
    try:
        content = json.loads(notebook.read_text(encoding="utf-8"))
        metadata = content["metadata"]["papermill"]
    except (OSError, ValueError, KeyError):
        return  # incomplete or not written; the caller reports it
    for name in ("input_path", "output_path"):
        metadata[name] = Path(metadata.get(name) or "").name
    atomic_write(notebook, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main(source: Path, target: Path, parameters: dict[str, object]) -> int:
    """Execute a notebook; the result names no folder of this machine."""
    code = execute(source, target, parameters)
    forget_paths(target)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))
