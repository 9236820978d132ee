"""Where the converter is."""  # noqa: N999
