"""MNN, as far as the driver uses it."""  # noqa: N999
