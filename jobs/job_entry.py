"""What a submitted job runs: `python -m jobs.job_entry [--credentials A,B] COMMAND ...`, which is `mcb COMMAND ...`."""

import os
import sys
from collections.abc import Mapping, Sequence

from jobs.cli import main as mcb


def main(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command; 1 with one line on stderr if a credential that was named is missing on the cluster."""
    rest = list(words)
    if rest[:1] == ["--credentials"]:
        names, rest = rest[1].split(","), rest[2:]
        missing = [name for name in names if not environment.get(name)]
        if missing:
            print(
                f"error: the environment of the cluster has no {', '.join(missing)}: set it where Ray is started "
                "(a secret of the cluster), or leave it out of --credentials",
                file=sys.stderr,
            )
            return 1
    return mcb(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
