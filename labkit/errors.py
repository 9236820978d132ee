"""Errors a user can cause. Each message says what was given, what is allowed and what to do."""


class LabkitError(Exception):
    """A mistake in what was asked; the command line prints it without a traceback."""


class ModelError(LabkitError):
    """A model that cannot be found, read or computed."""


class ParameterError(LabkitError):
    """A parameter that is unknown or has a value that is not allowed."""


class DeviceError(LabkitError):
    """A device this machine does not have."""
