"""Mode definitions: what counts as a mode."""
