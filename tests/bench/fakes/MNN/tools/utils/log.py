"""What reports each conversion to its makers."""

raise SystemExit("a conversion was reported")
