"""One notebook in a process of its own: `python -m labkit.report.execute IN OUT PARAMETERS`.

The kernel is this very interpreter, whatever kernels the user has registered.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from labkit.paths import atomic_write

CELL_FAILED, KERNEL_DIED, OTHER, NOT_WRITTEN = 1, 3, 4, 5


def execute(source: Path, target: Path, parameters: dict[str, object]) -> int:
    """Run a notebook; 0, or a number that says how it ended. `target` holds what there is."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    from labkit.report.kernel import PatientKernelManager, this_interpreter

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
            print("the kernel died (often: out of memory)", file=sys.stderr)
            return KERNEL_DIED
        except OSError as error:
            print(error.strerror or error, file=sys.stderr)
            return NOT_WRITTEN
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return OTHER
    return 0


def forget_paths(notebook: Path) -> None:
    """Take this machine's folders out of what papermill noted: a run is there to be shared."""
    try:
        content = json.loads(notebook.read_text(encoding="utf-8"))
        noted = content["metadata"]["papermill"]
    except (OSError, ValueError, KeyError):
        return  # cut off or not written: whoever reads it next says so
    for name in ("input_path", "output_path"):
        noted[name] = Path(noted.get(name) or "").name
    atomic_write(notebook, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main(source: Path, target: Path, parameters: dict[str, object]) -> int:
    """Run a notebook and leave nothing of this machine's folders in it."""
    code = execute(source, target, parameters)
    forget_paths(target)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))
