"""The Ray runtime: decisions in pure files, thin actors around them, checkpoints, tracking."""
