"""The calculator of notebook 00: limits of any machine and model."""

from __future__ import annotations

from labkit.limits import calculator, datasheet
from labkit.limits.hardware import Hardware
from labkit.report.told.plots import say, table

DTYPES = ("bfloat16", "float32", "int8", "int4")  # that the sliders offer
CONTEXT = 1024  # tokens, of the table


def machines(here: Hardware) -> dict[str, Hardware]:
    """This machine as measured, and others by the peaks of their datasheets."""
    return {"this machine": here, **datasheet.machines()}


def show_limits(here: Hardware) -> None:
    """Display the decode limit of well-known models on every machine, and the sources."""
    rows = calculator.calculator(machines(here), calculator.shapes(), "bfloat16", CONTEXT)
    table(
        rows,
        caption=f"Decode limit in bfloat16 at a context of {CONTEXT:,}, tokens/s for one stream",
    )
    if any(str(cell).endswith("*") for row in rows for cell in row.values()):
        say(
            "\\* The weights and the KV cache fit the machine's last-level cache, whose bandwidth "
            "the vendor does not print. So memory sets no limit; this one counts arithmetic alone."
        )
    table(
        [
            {"machine": m.name, "source": m.source, "last-level cache": datasheet.cache_told(name)}
            for name, m in datasheet.machines().items()
        ],
        caption="Sources",
    )


def show_sliders(here: Hardware) -> None:
    """Display the limits of one machine and model, with a slider or a menu for each input."""
    from ipywidgets import interact

    known, shapes = machines(here), calculator.shapes()

    def answer(machine: str, shape: str, dtype: str, context: int, batch: int) -> None:
        table([calculator.what_if(known[machine], shapes[shape], dtype, context, batch)])

    interact(
        answer,
        machine=list(known),
        shape=list(shapes),
        dtype=list(DTYPES),
        context=(128, 32768, 128),
        batch=(1, 128),
    )
