"""What a worker loads: one file an engine, each importing nothing of ours but drivers/ours."""
