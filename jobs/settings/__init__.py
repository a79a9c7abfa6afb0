"""The settings of a run, a typed tree: its parts, the named recipes, as a file and on the command line."""
