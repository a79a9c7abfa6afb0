import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_optimizer import SOAP

from cluster.errors import CheckpointError, UserError
from cluster.optimizer import FlatOptimizer, gradient_norm, optimizer_class, require_optimizer
from cluster.optimizer_plan import OptimizerPlan

START = np.linspace(-1, 1, 30, dtype=np.float32)


def gradient(version: int) -> np.ndarray:
    return np.random.default_rng(version).standard_normal(30).astype(np.float32)


def steps(optimizer: FlatOptimizer, versions: range) -> np.ndarray:
    for version in versions:
        optimizer.step(gradient(version), gradient_norm(gradient(version)), version)
    return optimizer.parameters


def test_a_clipped_sgd_step_has_the_length_of_the_clip():
    optimizer = FlatOptimizer(OptimizerPlan("sgd", 0.1, "constant", clip_norm=0.5), 10, START)
    moved = steps(optimizer, range(1)) - START
    np.testing.assert_allclose(np.linalg.norm(moved), 0.1 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(moved / np.linalg.norm(moved), -gradient(0) / np.linalg.norm(gradient(0)), atol=1e-6)


def test_soap_sees_each_parameter_in_its_shape():
    shapes = ((4, 5), (10,))
    expected = [torch.nn.Parameter(torch.from_numpy(START[:20].copy()).view(4, 5))]
    expected.append(torch.nn.Parameter(torch.from_numpy(START[20:].copy())))
    library = SOAP(expected, lr=0.05, weight_decay=0.0, max_precondition_dim=256)
    for version in range(12):
        expected[0].grad = torch.from_numpy(gradient(version)[:20].copy()).view(4, 5)
        expected[1].grad = torch.from_numpy(gradient(version)[20:].copy())
        library.step()
    moved = steps(FlatOptimizer(OptimizerPlan("soap", 0.05, "constant", shapes=shapes), 12, START), range(12))
    whole = torch.cat([parameter.detach().reshape(-1) for parameter in expected])
    np.testing.assert_array_equal(moved, whole.numpy())
    flat = steps(FlatOptimizer(OptimizerPlan("soap", 0.05, "constant", shapes=((30,),)), 12, START), range(12))
    assert np.abs(flat - moved)[:20].max() > 1e-3


def test_soap_without_shapes_is_not_silently_adam():
    with pytest.raises(ValueError, match="'soap' needs the shapes of the 30 parameters"):
        FlatOptimizer(OptimizerPlan("soap"), 10, START)


@pytest.mark.parametrize("name", ["adam", "AdamW", "sgd", "rmsprop", "adagrad", "nadam", "soap"])
def test_a_state_continues_with_the_same_bits_and_aliases_nothing(name: str):
    plan = OptimizerPlan(name, 0.05, "cosine", warmup=2, shapes=((4, 5), (10,)))
    whole = FlatOptimizer(plan, 10, START)
    half = FlatOptimizer(plan, 10, START)
    parameters = steps(half, range(4))
    state = half.state()
    steps(half, range(4, 7))
    resumed = FlatOptimizer(plan, 10, parameters)
    resumed.load(state)
    assert steps(resumed, range(4, 10)).tobytes() == steps(whole, range(10)).tobytes()
    again = FlatOptimizer(plan, 10, parameters)
    again.load(state)
    assert steps(again, range(4, 10)).tobytes() == whole.parameters.tobytes()


def test_parameters_are_read_only_snapshots():
    optimizer = FlatOptimizer(OptimizerPlan("sgd", 0.1), 10, START)
    before = optimizer.parameters
    steps(optimizer, range(1))
    np.testing.assert_array_equal(before, START)
    with pytest.raises(ValueError, match="read-only"):
        before[0] = 1


def test_the_schedule_rises_linearly_and_falls_by_a_half_cosine():
    plan = OptimizerPlan(learning_rate=2.0, schedule="cosine", warmup=4)
    rates = [plan.learning_rate_at(version, num_steps=12) for version in range(12)]
    np.testing.assert_allclose(rates[:4], [0.5, 1.0, 1.5, 2.0])
    np.testing.assert_allclose(rates[4:], [1 + math.cos(math.pi * k / 8) for k in range(8)])
    assert OptimizerPlan(schedule="constant").learning_rate_at(11, 12) == 1e-3


def test_the_norm_is_of_float64_accuracy_and_refuses_what_float32_cannot_square():
    values = np.full(200_000, 1e-3, np.float32)
    np.testing.assert_allclose(gradient_norm(values), math.sqrt(200_000) * float(np.float32(1e-3)), rtol=1e-12)
    assert gradient_norm(np.array([1e20], np.float32)) == math.inf
    assert math.isnan(gradient_norm(np.array([np.nan], np.float32)))


def test_the_step_computes_with_one_thread(monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    optimizer = FlatOptimizer(OptimizerPlan("sgd", 0.1), 10, START)
    monkeypatch.setattr(optimizer, "_step", lambda: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        steps(optimizer, range(1))
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_optimizer_that_has_taken_a_step_has_not_imported_torchs_compiler():
    program = """
import sys
import numpy as np
from cluster.optimizer import FlatOptimizer
from cluster.optimizer_plan import OptimizerPlan
for name in ("sgd", "adam"):
    optimizer = FlatOptimizer(OptimizerPlan(name), 10, np.ones(3, np.float32))
    optimizer.step(np.ones(3, np.float32), 3**0.5, 1)
    optimizer.load(optimizer.state())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)


def test_unknown_optimizers_are_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"'admw' is not one of .*did you mean 'adamw'\?"):
        optimizer_class("admw")


def test_the_state_of_another_optimizer_is_refused():
    optimizer = FlatOptimizer(OptimizerPlan("adam"), 10, START)
    with pytest.raises(CheckpointError, match="does not fit optimizer=adam"):
        optimizer.load({"state": {}, "param_groups": []})


@pytest.mark.parametrize(
    ("field", "value"), [("learning_rate", 0.0), ("learning_rate", math.nan), ("clip_norm", -1.0), ("warmup", -1)]
)
def test_values_out_of_range_are_refused(field: str, value: float):
    with pytest.raises(UserError, match=field):
        replace(OptimizerPlan(), **{field: value})


def test_options_reach_torch_and_the_others_keep_its_defaults():
    further = (("amsgrad", True),)
    plan = OptimizerPlan("adamw", 0.05, "constant", weight_decay=0.3, betas=(0.5, 0.6), epsilon=1e-4, further=further)
    mine = steps(FlatOptimizer(plan, 10, START), range(3))
    parameter = torch.nn.Parameter(torch.tensor(START))
    theirs = torch.optim.AdamW([parameter], lr=0.05, weight_decay=0.3, betas=(0.5, 0.6), eps=1e-4, amsgrad=True)
    for version in range(3):
        parameter.grad = torch.tensor(gradient(version))
        theirs.step()
    np.testing.assert_array_equal(mine, parameter.detach().numpy())
    assert OptimizerPlan("adamw").options == {}


@pytest.mark.parametrize(
    ("plan", "num_slices", "message"),
    [
        (
            OptimizerPlan("sgd", betas=(0.9, 0.99)),
            1,
            "'sgd' has no option betas: it has dampening, .*, nesterov",
        ),
        (OptimizerPlan("adam", momentum=0.9), 1, "'adam' has no option momentum: it has amsgrad, betas, "),
        (OptimizerPlan("adam", further=(("lr", 0.1),)), 1, "'adam' has no option lr"),
        (OptimizerPlan("sgd", further=(("nesterov", True),)), 1, "'sgd' refuses its options: Nesterov"),
        (OptimizerPlan("adam", betas=(0.9, 1.5)), 1, "'adam' refuses its options: Invalid beta"),
        (OptimizerPlan("adafactor", epsilon=1e-6), 1, "'adafactor' has no option eps: it has .*weight_decay"),
        (OptimizerPlan("soap", betas=(0.9, 1.5)), 1, "'soap' refuses its options"),
        (OptimizerPlan("Adafactor"), 2, "num_slices=2 must be 1, or choose --optimizer.name adam"),
        (OptimizerPlan("SOAP"), 2, "num_slices=2 must be 1"),
        (OptimizerPlan("admw"), 1, "did you mean 'adamw'"),
    ],
)
def test_options_that_an_optimizer_lacks_are_refused(plan: OptimizerPlan, num_slices: int, message: str):
    with pytest.raises(UserError, match=message):
        require_optimizer(plan, num_slices)
    require_optimizer(OptimizerPlan("adafactor"), 1)
    require_optimizer(OptimizerPlan("soap"), 1)


@pytest.mark.parametrize("decay", [0.0, 1.0, math.nan])
def test_an_average_that_never_moves_or_never_forgets_is_refused(decay: float):
    with pytest.raises(UserError, match="average_decay"):
        OptimizerPlan(average_decay=decay)
