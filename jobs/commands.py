"""What each command does with its words. The work itself is imported once the words are understood."""

from collections.abc import Callable

from jobs.arguments import (
    EvaluateOptions,
    LimitsOptions,
    ModesOptions,
    TrainOptions,
    TuneOptions,
    UiOptions,
    parse,
    parse_with_settings,
    show_train_help,
)
from jobs.errors import UsageError
from jobs.models.predict_arguments import PredictOptions
from jobs.models.register_arguments import RegisterOptions
from jobs.settings.file import read_yaml
from jobs.settings.overrides import Overrides, override
from jobs.settings.recipes import RECIPES, recipe
from jobs.settings.tree import Settings


def train(words: list[str]) -> None:
    """`mcb train RECIPE [overrides]`."""
    if {"-h", "--help"} & set(words):
        options, overrides = _train_words([word for word in words if word not in ("-h", "--help")])
        show_train_help(override(base_settings(options) or recipe("five-modes"), overrides))
        return
    options, overrides = _train_words(words)
    base = base_settings(options)
    if base is None and not options.resume:
        raise UsageError(f"name a recipe: {', '.join(RECIPES)}")
    from jobs.training.train import train as run

    run(options, base, overrides)


def tune(words: list[str]) -> None:
    """`mcb tune RECIPE --space SPACE [overrides]`."""
    options, overrides = parse_with_settings(TuneOptions, "tune", words)
    base = base_settings(options)
    if base is None and not options.resume:
        raise UsageError(f"name a recipe: {', '.join(RECIPES)}")
    if options.data is not None:
        overrides["tasks.path"] = [str(options.data.absolute())]
    from jobs.search.tune import tune as run

    run(options, base, overrides)


def evaluate(words: list[str]) -> None:
    """`mcb evaluate RUN|CHECKPOINT`."""
    options, overrides = parse_with_settings(EvaluateOptions, "evaluate", words)
    for path in overrides:
        if not path.startswith("evaluation."):
            raise UsageError(f"{path} is part of the trained learner: only settings under evaluation can be overridden")
    from jobs.evaluation.evaluate import evaluate_run

    evaluate_run(options, overrides)


def modes(words: list[str]) -> None:
    """`mcb modes RUN|CHECKPOINT`."""
    options = parse(ModesOptions, "modes", words)
    from jobs.evaluation.modes import show_modes

    show_modes(options)


def predict(words: list[str]) -> None:
    """`mcb predict MODEL SUPPORT.csv QUERY.csv`."""
    options = parse(PredictOptions, "predict", words)
    from jobs.models.predict import predict as run

    run(options)


def register(words: list[str]) -> None:
    """`mcb register RUN --name NAME`."""
    options = parse(RegisterOptions, "register", words)
    from jobs.models.register import register as run

    run(options)


def recipes(words: list[str]) -> None:
    """`mcb recipes`."""
    if words and words[0] in ("-h", "--help"):
        print("usage: mcb recipes\n\nList the named runs.")
        return
    from rich.console import Console
    from rich.table import Table

    if words:
        raise UsageError(f"mcb recipes takes no {words[0]!r}; mcb train RECIPE --help shows a recipe's settings")
    table = Table("recipe", "meta-steps", "what it is", box=None, pad_edge=False)
    for name, make in RECIPES.items():
        table.add_row(name, f"{make().train.num_steps:,}", make.__doc__ or "")
    console = Console()
    console.print(table)
    console.print("\nStart one with mcb train RECIPE; mcb train RECIPE --help shows its settings.", highlight=False)


def limits(words: list[str]) -> None:
    """`mcb limits RECIPE`."""
    options = parse(LimitsOptions, "limits", words)
    from jobs.evaluation.limits import make_limits

    make_limits(options)


def ui(words: list[str]) -> None:
    """`mcb ui`."""
    options = parse(UiOptions, "ui", words)
    from jobs.runs.ui import open_ui

    open_ui(options)


def submit(words: list[str]) -> int:
    """`mcb submit train|tune|evaluate ...`."""
    from jobs.submission.commands import submit as run

    return run(words)


def jobs(words: list[str]) -> int:
    """`mcb jobs list|status|logs|stop`."""
    from jobs.submission.commands import jobs as run

    return run(words)


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "train": train,
    "tune": tune,
    "evaluate": evaluate,
    "modes": modes,
    "predict": predict,
    "register": register,
    "submit": submit,
    "jobs": jobs,
    "recipes": recipes,
    "limits": limits,
    "ui": ui,
}


def _train_words(words: list[str]) -> tuple[TrainOptions, Overrides]:
    options, overrides = parse_with_settings(TrainOptions, "train", words)
    if options.data is not None:
        overrides["tasks.path"] = [str(options.data.absolute())]
    return options, overrides


def base_settings(options: TrainOptions | TuneOptions) -> Settings | None:
    """The settings that a new run starts from: a saved file's or a recipe's; None if neither is named."""
    if options.config is None:
        base = None if options.recipe is None else recipe(options.recipe)
    else:
        base = read_yaml(options.config)
        if options.recipe not in (None, base.recipe):
            raise UsageError(f"{options.config} is of recipe {base.recipe!r}, not {options.recipe!r}: name one of them")
    if options.data is not None and base is not None and base.tasks.kind != "curves":
        raise UsageError(f"--data is for measured curves (recipe curves); recipe {base.recipe!r} makes its own tasks")
    return base
