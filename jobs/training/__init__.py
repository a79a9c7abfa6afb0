"""One run from its start, or from where it stopped, to what it leaves behind."""
