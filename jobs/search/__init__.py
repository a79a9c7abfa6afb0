"""A search over settings: its space, its trials under Ray Tune, what came out of it."""
