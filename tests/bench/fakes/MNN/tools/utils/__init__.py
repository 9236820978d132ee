"""Where its reports are."""  # noqa: N999
