import pytest

from jobs.errors import UsageError
from jobs.settings.file import flatten, from_yaml, read_yaml, to_yaml
from jobs.settings.leaves import leaves
from jobs.settings.modes import CodebookModes, SingleMode
from jobs.settings.overrides import override, split
from jobs.settings.recipes import RECIPES, recipe
from jobs.settings.tree import GradientInference, RegressionTasks, Settings, SVGDInference


@pytest.mark.parametrize("name", RECIPES)
def test_settings_survive_yaml(name):
    assert from_yaml(to_yaml(recipe(name))) == recipe(name)


@pytest.mark.parametrize("name", RECIPES)
def test_overriding_every_leaf_by_its_own_value_changes_nothing(name):
    settings = recipe(name)
    words = []
    for path, value in flatten(settings.model_dump(mode="json")).items():
        if path != "recipe":
            values = value if isinstance(value, list) else [value]
            words += ["--" + path.replace("_", "-"), *map(str, values)]
    overrides, others = split(words)
    assert not others
    assert len(overrides) == len(flatten(settings.model_dump())) - 1
    assert override(settings, overrides) == settings


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_carries_its_own_name_and_a_description(name):
    assert recipe(name).recipe == name
    assert RECIPES[name].__doc__


def test_every_leaf_says_what_it_is_and_what_it_admits():
    for leaf in leaves():
        assert leaf.field.description or any(getattr(part, "description", "") for part in leaf.field.metadata), (
            leaf.path
        )
        assert leaf.wanted, leaf.path


def changed(words: str, name: str = "five-modes") -> Settings:
    overrides, others = split(words.split())
    assert not others
    return override(recipe(name), overrides)


def test_values_are_given_by_path_in_either_spelling():
    assert changed("--train.num-steps 7").train.num_steps == 7
    assert changed("--train.num_steps=7").train.num_steps == 7
    assert changed("--seed 3").seed == 3
    assert changed("--network.hidden 5 6").network.hidden == (5, 6)
    assert changed("--network.hidden 5,6").network.hidden == (5, 6)
    assert changed("--hypernetwork.hidden").hypernetwork.hidden == ()
    assert changed("--optimizer.clip-norm none").optimizer.clip_norm is None
    assert changed("--optimizer.learning-rate 1e-2").optimizer.learning_rate == 0.01
    assert changed("--tasks.families linear tanh").tasks == RegressionTasks(families=("linear", "tanh"))


def test_a_kind_is_chosen_with_its_own_fields_wherever_it_stands_in_the_words():
    assert changed("--modes.kind single --modes.code-size 3").modes == SingleMode(code_size=3)
    assert changed("--inference.num-particles 3 --inference.kind svgd").inference == SVGDInference(num_particles=3)
    assert changed("--modes.kind codebook").modes == recipe("five-modes").modes
    assert changed("--modes.kind codebook", "five-modes-maml").modes == CodebookModes()
    gradient = "--inference.kind gradient --inference.second-order"
    assert changed(f"{gradient} false").inference == GradientInference(second_order=False)
    assert changed(gradient).inference == GradientInference(second_order=True)


def test_sections_left_out_of_a_file_have_their_defaults():
    assert from_yaml("seed: 4\ntrain: {num_steps: 9}") == Settings(
        seed=4, train=Settings().train.model_copy(update={"num_steps": 9})
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--train.num-steps abc", "train.num_steps=abc must be a whole number from 1 to 1,000,000,000"),
        ("--train.num-steps -4", "train.num_steps=-4 must be a whole number from 1 to 1,000,000,000"),
        ("--train.num-steps 0.5", "train.num_steps=0.5 must be a whole number"),
        ("--train.num-steps", "--train.num-steps needs a value: a whole number from 1"),
        ("--optimizer.learning-rate nan", "optimizer.learning_rate=nan must be a number above 0 and at most 1000"),
        ("--optimizer.learning-rate inf", "optimizer.learning_rate=inf must be a number above 0 and at most 1000"),
        ("--optimizer.clip-norm 0", "optimizer.clip_norm=0 must be a number above 0, or None"),
        ("--network.hidden 8 0", "network.hidden=0 must be one or more, each a whole number from 1 to 65,536"),
        ("--network.activation rel", "network.activation=rel must be one of tanh, relu, silu"),
        ("--tasks.families sinus", "tasks.families=sinus must be one or more, each one of sinusoid, linear"),
        ("--modes.kind codebok", "modes.kind=codebok must be one of codebook, clustered, embedding"),
        (
            "--modes.kind single --modes.num-modes 3",
            "--modes.num-modes belongs to modes.kind=codebook or modes.kind=clustered, and",
        ),
        ("--inference.kind gradient --inference.second-order maybe", "second_order=maybe must be true or false"),
        (
            "--cluster.policy.kind stale --cluster.policy.bound -1",
            "policy.bound=-1 must be a whole number from 0",
        ),
        ("--cluster.policy.bound 2", "--cluster.policy.bound belongs to cluster.policy.kind=stale, and"),
        ("--optimizer.betas 0.9 1.0", "optimizer.betas=1.0 must be one or more, each a number"),
        ("--seed -1", "seed=-1 must be a whole number from 0"),
    ],
)
def test_words_that_do_not_fit_are_refused_with_the_value_and_the_range(words, message):
    with pytest.raises(UsageError, match="(?s)" + message.replace("(", r"\(").replace(".", r"\.")):
        changed(words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {num_stepz: 3}", "unknown setting train.num_stepz; did you mean train.num_steps?"),
        ("modes: {num_modes: 3}", "modes must name its kind"),
        ("modes: {kind: codebook, num_modes: 0}", "modes.num_modes=0 must be a whole number from 1 to 4,096"),
        ("train: 3", "train=3 must be a section of settings"),
        ("modes: 3", "modes=3 must be a section of settings"),
        ("seed: .nan", "seed=nan must be a whole number"),
        ("- 1", "the settings must be a tree of sections"),
        ("a: [", "the settings are not YAML"),
    ],
)
def test_files_that_do_not_fit_are_refused_with_their_name(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as refusal:
        read_yaml(path)
    assert message in str(refusal.value)
    assert str(refusal.value).endswith(f"(in {path})")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be read: No such file"):
        read_yaml(tmp_path / "absent.yaml")
