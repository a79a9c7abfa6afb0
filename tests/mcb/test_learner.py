"""The learner's batched results against a plain loop over tasks and modes, for every mode definition and inference."""

import pytest
import torch
from small_learners import INFERENCES, MODES, NUM_TASKS, draws, make_learner, make_tasks, meta_gradient
from torch import Tensor
from torch.distributions import Normal

from mcb.inference.problem import Problem
from mcb.learner import ModeConditionalBayesianMAML
from mcb.likelihoods import Gaussian
from mcb.modes.codebook import Codebook
from mcb.modes.oracle import Oracle
from mcb.modes.single import Single
from mcb.objectives import EvidenceRegularized, predictive_nll
from mcb.predictive import GaussianMixture
from mcb.types import Support, Task


def one_by_one(learner: ModeConditionalBayesianMAML, tasks: Task, noise: Tensor | None) -> list[dict[str, Tensor]]:
    """What the learner is to compute, written out: each task alone without its masked places, each mode alone."""
    results = []
    for index in range(NUM_TASKS):
        task = Task(*(leaf[index] for leaf in tasks))
        support = Support(*(leaf[task.support_mask] for leaf in task.support))
        query_x, query_y = task.query_x[task.query_mask], task.query_y[task.query_mask]
        embedding = None
        if learner.modes.needs_embedding and learner.task_encoder is not None:
            embedding = learner.task_encoder(support.x, learner.likelihood.targets_as_inputs(support.y), support.mask)
        gate = learner.modes.log_gate(embedding, task.mode).exp()
        evidence, density = [], []
        for code in learner.modes.codes(embedding):
            problem = Problem(learner.model, learner.likelihood, learner.prior_hypernetwork(code))
            posterior = learner.inference.adapt(problem, support, None if noise is None else noise[index])
            evidence.append(posterior.log_evidence)
            prediction, variance = learner.inference.predict(problem, posterior, query_x)
            if isinstance(learner.likelihood, Gaussian):
                noise_variance = learner.likelihood.scale(problem.generated.likelihood).square()
                normal = Normal(prediction, (variance + noise_variance).sqrt())
                components = normal.log_prob(query_y).sum(-1)
            else:
                components = prediction.log_softmax(-1)[:, torch.arange(len(query_y)), query_y]
            density.append(components.exp().mean(0))
        joint = gate * torch.stack(evidence).exp()
        responsibilities = joint / joint.sum()
        nll = -(responsibilities[:, None] * torch.stack(density)).sum(0).log().mean()
        results.append(
            {
                "loss": nll,
                "log_evidence": torch.stack(evidence),
                "responsibilities": responsibilities,
                "log_marginal": joint.sum().log(),
            }
        )
    return results


TABLE = [
    *((modes, inference, "mlp") for modes in MODES for inference in INFERENCES),
    *((modes, inference, "images") for modes in ("embedding", "codebook, both") for inference in INFERENCES),
    *((modes, inference, "classes") for modes in ("embedding", "codebook, both") for inference in ("gradient", "svgd")),
]


@pytest.mark.parametrize(("modes", "inference", "kind"), TABLE)
def test_batched_tasks_equal_each_task_alone_without_its_masked_places(modes, inference, kind):
    """Losses, evidences, responsibilities by enumerated Bayes' rule, and the meta-gradient."""
    learner, tasks = make_learner(modes, inference, kind), make_tasks(kind)
    noise = learner.noise(7, torch.arange(NUM_TASKS))
    expected = one_by_one(learner, tasks, noise)
    prediction = learner(tasks, noise)
    loss = learner.losses(tasks, noise).loss
    for name, batched in (
        ("loss", loss),
        ("log_evidence", prediction.log_evidence),
        ("responsibilities", prediction.responsibilities),
        ("log_marginal", prediction.log_marginal),
    ):
        torch.testing.assert_close(
            batched, torch.stack([result[name] for result in expected]), msg=lambda m, n=name: f"{n}: {m}"
        )
    alone = meta_gradient(torch.stack([result["loss"] for result in expected]).sum(), learner)
    for (name, _), batched, one in zip(
        learner.named_parameters(), meta_gradient(loss.sum(), learner), alone, strict=True
    ):
        torch.testing.assert_close(batched, one, msg=lambda m, n=name: f"{n}: {m}")


def test_the_oracle_is_the_single_mode_learner_of_the_true_modes_code():
    learner, tasks = make_learner("oracle"), make_tasks()
    assert isinstance(learner.modes, Oracle)
    losses, prediction = learner.losses(tasks, None).loss, learner(tasks, None)
    for index, mode in enumerate(tasks.mode.tolist()):
        single = make_learner("single")
        single.load_state_dict({**learner.state_dict(), "modes.code": learner.modes.table[[mode]]}, strict=False)
        torch.testing.assert_close(losses[index], single.losses(tasks, None).loss[index])
        assert prediction.responsibilities[index, mode] == 1
        torch.testing.assert_close(prediction.log_marginal[index], prediction.log_evidence[index, mode])


def test_copies_of_one_code_are_one_mode():
    learner, single, tasks = make_learner("codebook, weights"), make_learner("single"), make_tasks()
    assert isinstance(learner.modes, Codebook) and isinstance(single.modes, Single)
    learner.modes.table.data[:] = single.modes.code.data
    learner.load_state_dict({k: v for k, v in single.state_dict().items() if not k.startswith("modes")}, strict=False)
    torch.testing.assert_close(learner.losses(tasks, None), single.losses(tasks, None))
    torch.testing.assert_close(learner(tasks, None).log_marginal, single(tasks, None).log_marginal)


@pytest.mark.parametrize("inference", ["conjugate", "svgd"])
def test_modes_have_no_order(inference):
    learner, tasks = make_learner("codebook, weights", inference), make_tasks()
    assert isinstance(learner.modes, Codebook) and learner.modes.log_weights is not None
    learner.modes.log_weights.data[:] = draws(3)
    noise = learner.noise(0, torch.arange(NUM_TASKS))
    before, responsibilities = learner.losses(tasks, noise), learner(tasks, noise).responsibilities
    order = torch.tensor([2, 0, 1])
    for parameter in (learner.modes.table, learner.modes.log_weights):
        parameter.data = parameter.data[order]
    torch.testing.assert_close(learner.losses(tasks, noise), before)
    torch.testing.assert_close(learner(tasks, noise).responsibilities, responsibilities[:, order])


@pytest.mark.parametrize("inference", INFERENCES)
def test_support_points_have_no_order(inference):
    learner, tasks = make_learner("codebook, both", inference), make_tasks()
    noise = learner.noise(0, torch.arange(NUM_TASKS))
    order = torch.tensor([3, 1, 4, 0, 2])
    turned = tasks._replace(
        **{name: getattr(tasks, name)[:, order] for name in ("support_x", "support_y", "support_mask")}
    )
    torch.testing.assert_close(learner.losses(turned, noise), learner.losses(tasks, noise))


def test_record_of_the_losses_is_detached_and_in_its_own_units():
    learner, tasks = make_learner("codebook, weights"), make_tasks()
    plain, objective = learner.losses(tasks, None), EvidenceRegularized(0.5)
    regularized, prediction = learner.losses(tasks, None, objective), learner(tasks, None)
    assert isinstance(prediction.predictive, GaussianMixture)
    error = (prediction.predictive.expectation() - tasks.query_y).square()[..., 0]
    for index, mask in enumerate(tasks.query_mask):
        torch.testing.assert_close(plain.squared_error[index], error[index, mask].mean().detach())
    torch.testing.assert_close(plain.nll, plain.loss.detach())
    torch.testing.assert_close(regularized.nll, predictive_nll(prediction, tasks).detach())
    torch.testing.assert_close(regularized.loss, objective(prediction, tasks))
    assert (
        regularized.loss.requires_grad and not regularized.nll.requires_grad and not plain.squared_error.requires_grad
    )
    assert (
        not make_learner("embedding", "gradient", "classes")
        .losses(make_tasks("classes"), draws(NUM_TASKS, 3, 16))
        .squared_error.any()
    )
