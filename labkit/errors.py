"""Errors that a user can cause. A message says what was given, what is allowed and what to do."""


def one_line(text: str) -> str:
    """A text with what cannot be printed, ends of lines too, as Python writes it: \\n."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class LabkitError(Exception):
    """Something that the user can put right; the command line prints it without a traceback."""


class ModelError(LabkitError):
    """A model that cannot be found or read, or that no decoder here computes.

    Its message is one line, whatever stands in a file's names and values.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


class ParameterError(LabkitError):
    """An unknown parameter, or a value that is not allowed for it."""


class DeviceError(LabkitError):
    """A device that this machine does not have."""


class FindingsError(LabkitError):
    """Findings that cannot be read: of another schema, broken, or none at all."""


class ImpossibleRate(LabkitError):
    """A measured rate that no such device can reach, or two clocks that disagree: the run stops."""
