"""Every `mcb` command line in infra/ is one that the real parsers take, with settings that they accept."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from rendering import rendered
from schemas import INFRA

from cluster.errors import UserError
from jobs.arguments import TrainOptions, TuneOptions, parse_with_settings
from jobs.cli import main
from jobs.settings.overrides import override
from jobs.settings.recipes import recipe

_END = {";", "|", "&&", "||", ";;", "then", "else", "fi"}


def command_lines(text: str) -> list[list[str]]:
    """The words of every `mcb COMMAND ...` in a shell line or script (`-n mcb` is a namespace)."""
    found = []
    for match in re.finditer(r"(?:^|[\s;])(?<!-n )mcb (?=[a-z])", text, flags=re.MULTILINE):
        lexer = shlex.shlex(text[match.end() - 4 :], posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if word in _END:
                break
            words.append(word)
        found.append(words)
    return found


def understood(words: list[str]) -> Any:
    """The options of one command line, its recipe and settings checked; raises `UserError`."""
    kinds = {"train": TrainOptions, "tune": TuneOptions}
    options, overrides = parse_with_settings(kinds[words[1]], words[1], words[2:])
    override(recipe(options.recipe), overrides)
    return options


def entrypoints(objects: list[dict[str, Any]]) -> dict[str, list[list[str]]]:
    return {item["metadata"]["name"]: command_lines(item["spec"]["entrypoint"]) for item in objects}


@pytest.mark.parametrize("folder", ["jobs/dev", "jobs/gpu"])
def test_entrypoints_of_jobs_are_understood_and_can_be_started_again(folder):
    found = entrypoints(rendered(folder))
    (train,) = found["train"]
    options = understood(train)
    assert options.auto_resume and str(options.out).startswith("/runs/")
    assert any(word.startswith("s3://mcb/") for word in train)
    (search,) = (understood(words) for words in found["tune"])
    assert search.auto_resume and str(search.out).startswith("/runs/")
    assert options.tracking_uri == search.tracking_uri == "http://mlflow:5000"


@pytest.mark.parametrize("folder", ["jobs/dev", "jobs/gpu"])
def test_a_jobs_workers_fit_into_its_cluster(folder):
    """The CPUs that a run asks for beside those that the largest cluster of the job has."""
    for job in rendered(folder):
        (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        (container,) = group["template"]["spec"]["containers"]
        cpus = group["maxReplicas"] * int(container["resources"]["limits"]["cpu"])
        for words in command_lines(job["spec"]["entrypoint"]):
            if "--cluster.num-workers" in words:
                assert int(words[words.index("--cluster.num-workers") + 1]) <= cpus


def texts(part: Any) -> Iterator[str]:
    """The strings of a YAML document, and those of the patches that some of them are."""
    if isinstance(part, str):
        inner = yaml.safe_load(part) if "\n- " in part or part.startswith("- ") else part
        yield from [part] if isinstance(inner, str) else texts(inner)
    elif isinstance(part, (dict, list)):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from texts(inner)


def sources() -> Iterator[tuple[str, str]]:
    """File and text of everything in infra/ that is run, or that a reader is told to run."""
    for path in sorted(INFRA.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield from ((str(path.relative_to(INFRA)), text) for text in texts(document))
    for block in re.findall(r"```sh\n(.*?)```", (INFRA / "README.md").read_text(), flags=re.DOTALL):
        yield from (("README.md", line) for line in block.replace("\\\n", " ").splitlines())


LINES = [(name, words) for name, text in sources() for words in command_lines(text)]


def test_the_search_for_command_lines_finds_those_that_are_there():
    files = ("jobs/add/train.yaml", "jobs/add/tune.yaml", "jobs/dev/kustomization.yaml", "jobs/gpu/kustomization.yaml")
    assert {f"kubernetes/{file}" for file in files} | {"README.md"} == {name for name, _ in LINES}


@pytest.mark.parametrize(("name", "words"), LINES, ids=[f"{name}-{number}" for number, (name, _) in enumerate(LINES)])
def test_every_command_line_of_infra_names_a_command_and_options_that_exist(name, words, capsys):
    if words[1] in ("train", "tune") and len(words) > 2 and not words[2].startswith("-"):
        understood(words)
        return
    assert main([words[1], "--help"]) == 0
    listed = capsys.readouterr().out
    assert all(word.partition("=")[0] in listed for word in words[2:] if word.startswith("--"))


@pytest.mark.parametrize(
    "line",
    [
        "mcb train five-modes --auto-resum",
        "mcb train six-modes --auto-resume",
        "mcb train five-modes --cluster.num-wokers 4",
        "mcb train five-modes --cluster.num-workers -4",
        "mcb tune five-modes --num-trials many",
    ],
)
def test_a_wrong_command_line_is_refused(line):
    (words,) = command_lines(line)
    with pytest.raises(UserError):
        understood(words)
