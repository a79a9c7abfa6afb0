"""What the documents promise: the README's file list, its commands and its example, and the quickstart."""

import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.settings.recipes import RECIPES, recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, document: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document, flags=re.DOTALL)


def commands() -> list[list[str]]:
    documents = [README, (ROOT / "docs" / "cluster.md").read_text()]
    lines = [line for document in documents for block in blocks("sh", document) for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "mcb"]


def test_readme_gives_every_module_its_line_and_names_no_other():
    there = {
        str(path.relative_to(ROOT))
        for room in ("mcb", "cluster", "jobs")
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert set(re.findall(r"^\| `((?:mcb|cluster|jobs)/\S+\.py)` \|", README, flags=re.MULTILINE)) == there


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_resolves_the_readmes_two_commands(target):
    assert any(line.split()[:2] == ["make", target] for block in blocks("sh") for line in block.splitlines())
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_documented_commands_name_commands_recipes_and_options_that_exist(words, capsys):
    command, options = words[1:2], [word for word in words[2:] if word.startswith("--")]
    if words[1] in ("submit", "jobs"):
        command = words[1:3]
    assert main([*command, "--help"]) == 0
    listed = capsys.readouterr().out
    if "train" in command:
        name = words[1 + len(command)]
        assert name in RECIPES
        assert main(["train", name, "--help"]) == 0
        listed += capsys.readouterr().out
    for option in options:
        assert option in listed


def test_readmes_example_runs_and_gives_probabilities():
    (example,) = blocks("python")
    scope: dict = {}
    exec(example, scope)
    assert scope["probabilities"].sum(-1).allclose(scope["probabilities"].new_ones(5))


def test_quickstart_learns_both_kinds_of_tasks(capsys):
    runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="__main__")
    printed = capsys.readouterr().out
    falls = re.findall(r"([\d.]+) -> ([\d.]+) nats", printed)
    assert len(falls) == 2
    for before, after in falls:
        assert float(after) < 0.7 * float(before)


def test_every_recipe_is_listed_with_its_name():
    assert all(recipe(name).recipe == name for name in RECIPES)
