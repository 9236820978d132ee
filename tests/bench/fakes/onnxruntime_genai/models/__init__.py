"""Where the model builder is."""
