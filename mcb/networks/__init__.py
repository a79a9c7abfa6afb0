"""Base networks, and networks as functions of flat parameter vectors."""
