"""MNN's exporter; what is in it can only be imported from its own folder."""
