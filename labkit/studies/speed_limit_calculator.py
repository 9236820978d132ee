"""The calculator of notebook 00: limits of any machine and model."""

from __future__ import annotations

from labkit.limits import calculator, datasheet
from labkit.limits.hardware import Hardware
from labkit.report.told.plots import table

DTYPES = ("bfloat16", "float32", "int8", "int4")  # that the sliders offer
CONTEXT = 1024  # tokens, of the table


def machines(here: Hardware) -> dict[str, Hardware]:
    """This machine as measured, and others by the peaks of their datasheets."""
    return {"this machine": here, **datasheet.machines()}


def show_limits(here: Hardware) -> None:
    """Display the decode limit of well-known models on every machine, and the sources."""
    table(
        calculator.calculator(machines(here), calculator.shapes(), "bfloat16", CONTEXT),
        caption=f"Decode limit in bfloat16 at a context of {CONTEXT:,}, tokens/s for one stream",
    )
    table(
        [{"machine": m.name, "source": m.source} for m in datasheet.machines().values()],
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
