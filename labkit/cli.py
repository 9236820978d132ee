"""The `labkit` command: limit, calculator, try, reports, bench, compare, share.

Each command imports what it needs, so that --help answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labkit.base.command import clear_errors, show


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """How fast can this machine run a model, and which techniques come close to that?"""


@main.command()
@click.argument("model", default="")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps")
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    help="of the weights: float32, bfloat16, float16, int8 or int4",
)
@click.option("--prompt-tokens", default=128, show_default=True)
@click.option("--new-tokens", default=128, show_default=True)
@click.option(
    "--machine",
    default=None,
    help="by its datasheet, instead of this machine; a wrong name lists those that are known",
)
@click.option("--remeasure", is_flag=True, help="measure this machine again")
@clear_errors
def limit(model: str, **options: Any) -> None:
    """The least time that MODEL can take, on this machine or on one that you do not have.

    MODEL is a directory, a GGUF file or a hub id; by default the built-in model.
    """
    from labkit.limits.report import limit_report

    show(limit_report(model or None, **options))


@main.command("try")
@click.argument("prompt")
@click.option("--model", default="", help="directory, GGUF file or hub id; default: the built-in")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps")
@click.option("--max-tokens", default=256, show_default=True, help="of the answer")
@click.option("--threads", default=None, type=int, help="default: the cores allowed")
@click.option("--drafts/--no-drafts", default=True, help="drafts change no token, only the speed")
@click.option("--raw", is_flag=True, help="the prompt as it is, without the model's chat template")
@click.option("--measure", is_flag=True, help="this machine, where that was not done yet: < 1 min")
@clear_errors
def try_(prompt: str, **options: Any) -> int:
    """Answer PROMPT by the fastest path that this machine has, and tell how fast that was.

    PROMPT is a text; "-" reads it from stdin. The answer goes to stdout, the line of figures to
    stderr. The limit counts the passes that were made: accepted drafts raise it.
    """
    from labkit.fast.terminal import try_prompt

    return try_prompt(prompt, **options)


@main.command()
@click.option(
    "--html",
    "page",
    is_flag=False,
    flag_value="calculator.html",
    default=None,
    metavar="[FILE]",
    help="write a page that answers offline in a browser; FILE ends in .html, "
    "by default calculator.html",
)
@click.option("--shape", default="llama-3.2-1b", show_default=True, help="a wrong name lists all")
@click.option("--machine", default=None, help="by its datasheet, instead of this machine")
@click.option("--device", default="auto", show_default=True, help="of this machine")
@click.option("--dtype", default="bfloat16", show_default=True, help="of the weights")
@click.option("--kv-dtype", default="bfloat16", show_default=True, help="of the KV cache")
@click.option("--batch", default=1, show_default=True, help="sequences that decode together")
@click.option("--context", default=2048, show_default=True, help="tokens of each sequence")
@click.option("--prompt-tokens", default=1024, show_default=True, help="of these, of its prompt")
@click.option("--price", default=None, type=float, help="of an hour of the machine")
@clear_errors
def calculator(
    page: str | None, shape: str, machine: str | None, device: str, **asked: Any
) -> None:
    """The limit of a known model shape on a machine: speed, memory, batch and cost.

    This machine is answered for as it was measured last; `labkit limit` measures it. With --html,
    the page opens with the same question.
    """
    from labkit.limits.question import Question

    if page is None:
        from labkit.limits.report import answer_report

        show(answer_report(shape, machine, device, Question(**asked)))
    else:
        from labkit.report.pages.calculator import write_page

        show(write_page(Path(page), shape, machine, device, Question(**asked)))


@main.command()
@click.option("--profile", default="full", show_default=True, help="quick or full")
@click.option("--model", default="", help="directory, GGUF file or hub id; default: the built-in")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--only", default="", help="notebooks by number or name, with commas: 02 or 00,01")
@click.option("--params", default=None, type=click.Path(path_type=Path), help="YAML file")
@click.option("--run", "name", default="", help="name of the run; default: date, model, profile")
@click.option("--force", is_flag=True, help="run again what is already done")
@clear_errors
def reports(**options: Any) -> int:
    """Run the notebooks and write their pages into outputs/<run>.

    The same command on the same day continues the same run. It keeps each notebook that is done,
    unless its parameters, the model, the machine or the code that it imports have changed.
    """
    from labkit.report.runs.request import ReportRequest
    from labkit.report.runs.run import run_reports
    from labkit.studies.allowed import check_identified

    return run_reports(ReportRequest(**options), check_identified)


@main.command()
@click.option("--variants", default="transformers,plain", show_default=True, help="with commas")
@click.option("--prompt-tokens", default=128, show_default=True)
@click.option("--new-tokens", default=64, show_default=True)
@click.option("--rounds", default=10, show_default=True)
@click.option("--model", default="", help="directory, GGUF file or hub id; default: the built-in")
@click.option("--threads", default=None, type=int, help="default: the cores allowed")
@click.option("--remeasure", is_flag=True, help="measure this machine again, for the limits")
@click.option("--json", "json_path", default=None, type=click.Path(path_type=Path), help="samples")
@clear_errors
def bench(json_path: Path | None, **options: Any) -> None:
    """Compare our variants and other engines, interleaved; the first is the baseline.

    `labkit bench --variants list` lists all. `make peers` installs the other engines.
    """
    from labkit.base.paths import json_text
    from labkit.base.places import try_file, write_result
    from labkit.bench.run import run
    from labkit.bench.variants import LIST, known

    if options["variants"].strip() == LIST:
        show(known())
        return
    if json_path:
        try_file(json_path, "the file of samples", "give another place to --json")
    found = run(**options)
    show(found.text)
    if json_path:
        write_result(
            json_path, json_text(found.samples) + "\n", "the file of samples",
            "the table above is all that is kept",
        )  # fmt: skip


@main.command()
@click.argument("runs", nargs=-1, metavar="RUN RUN [RUN ...]")
@clear_errors
def compare(runs: tuple[str, ...]) -> None:
    """The findings of two or more runs, a column a run. RUN: a folder, or a name in outputs."""
    from labkit.report.compare import comparison

    show(comparison(runs))


@main.command()
@click.argument("run")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@clear_errors
def share(run: str, file: Path | None) -> None:
    """Write RUN with all its pages into one HTML file, to send: it opens offline, from any place.

    RUN: a folder, or a name in outputs. FILE: by default the run's name with .html, in this folder.
    """
    from labkit.report.pages.share import share as write

    path = write(run, file)
    show(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
