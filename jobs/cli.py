"""The `mcb` command. Only what a command needs is imported, so that `mcb --help` answers at once."""

import logging
import sys
import warnings
from collections.abc import Sequence

from cluster.errors import UserError
from cluster.secrets import without_password
from jobs.errors import Interrupted, UsageError, nearest

_COMMANDS = {
    "train": "meta-train a recipe, evaluate it, and track it",
    "tune": "search over mode definitions and other settings with Ray Tune",
    "evaluate": "evaluate a run or a checkpoint on the test tasks",
    "modes": "show the modes of a trained run",
    "predict": "adapt a trained model to a few points and predict others",
    "register": "register a run's model, and make it the champion if it is no worse",
    "submit": "run train, tune or evaluate as a job of a Ray cluster",
    "jobs": "list, follow and stop the jobs of a Ray cluster",
    "recipes": "list the named runs",
    "limits": "make the Bayes-optimal reference of a recipe's test tasks again",
    "ui": "open the MLflow UI at the runs",
}
_HELP = "\n".join(
    [
        "usage: mcb COMMAND [OPTIONS]",
        "",
        "Meta-train Bayesian few-shot learners on task distributions with many modes.",
        "",
        "commands:",
        *(f"  {name:<10} {text}" for name, text in _COMMANDS.items()),
        "",
        "mcb COMMAND --help lists a command's options, mcb train RECIPE --help a recipe's settings.",
        "Every command takes --debug, which shows tracebacks.",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: this process's); returns the exit code.

    0 done; 1 refused or failed, with one line `error: ...` on stderr; 2 a wrong command line; 130 interrupted.
    `mcb submit --follow` and `mcb jobs` have further ones (jobs/submission/job_exit.py).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        return _command(words)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if "--debug" in words:
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP)
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"mcb-maml {version('mcb-maml')}")
        return 0
    name, *rest = words
    if name not in _COMMANDS:
        raise UsageError(f"unknown command {name!r}{nearest(name, _COMMANDS)}")
    if "--debug" not in rest:
        warnings.filterwarnings("ignore", category=FutureWarning)
    from jobs import commands

    try:
        return commands.COMMANDS[name](rest) or 0
    except SystemExit as end:  # tyro printed the help
        return int(end.code or 0)


def _sentence(error: Exception) -> str:
    """What is said of an error without its traceback."""
    text = without_password(" ".join(str(error).split()))
    if isinstance(error, (UserError, ValueError)):
        return text
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else text
    return f"{type(error).__name__}: {text} (not foreseen; --debug shows where)"


if __name__ == "__main__":
    sys.exit(main())
