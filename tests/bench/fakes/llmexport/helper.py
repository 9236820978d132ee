"""One of the exporter's own modules."""

NAME = "llm.mnn.weight"
