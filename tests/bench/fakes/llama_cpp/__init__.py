"""llama-cpp-python, as far as the driver uses it."""
