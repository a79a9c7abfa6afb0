"""Base networks as functions of flat parameter vectors: the module itself at its own values, and groups by name."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP


class Normalised(nn.Module):
    """A convolution, layer norm and a head that is not called so."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, kernel_size=2)
        self.norm = nn.LayerNorm([3, 3, 3])
        self.output = nn.Linear(27, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.norm(self.convolution(x)).tanh().flatten(1))


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def mlp() -> MLP:
    torch.manual_seed(0)
    return MLP(2, 3, hidden=(5, 4)).double()


MODULES = pytest.mark.parametrize(
    ("module", "x_shape"),
    [(MLP(2, 3, hidden=(5, 4)), (2,)), (nn.Linear(2, 3, bias=False), (2,)), (Normalised(), (1, 4, 4))],
    ids=["mlp", "linear", "convolution and layer norm"],
)
GROUPS = pytest.mark.parametrize(
    ("adapted", "conditional"),
    [("all", "none"), ("weight", "none"), ("weight", "rest"), (r"(head|output|^weight)", "rest")],
)


@MODULES
@GROUPS
def test_at_the_modules_own_values_it_is_the_module(module, x_shape, adapted, conditional):
    module = module.double()
    network, x = BaseNetwork(module, adapted, conditional), draws(6, *x_shape)
    torch.testing.assert_close(network(network.initial_adapted, network.initial_conditional, x), module(x))


@MODULES
@GROUPS
def test_flat_values_are_the_parameters_in_the_order_of_their_names(module, x_shape, adapted, conditional):
    """Against `functional_call` on the untouched module with each parameter sliced out by hand."""
    module = module.double()
    network, x = BaseNetwork(module, adapted, conditional), draws(6, *x_shape)
    values = {}
    for shapes, vector in (
        (network.adapted_shapes, a := draws(network.num_adapted, seed=1)),
        (network.conditional_shapes, c := draws(network.num_conditional, seed=2)),
    ):
        start = 0
        for name, shape in shapes.items():
            values[name] = vector[start : start + shape.numel()].reshape(shape)
            start += shape.numel()
        assert start == len(vector)
    torch.testing.assert_close(network(a, c, x), functional_call(module, values, (x,)))


def test_groups_are_chosen_by_name_and_only_the_shared_remain_meta_parameters(mlp):
    names = [name for name, _ in mlp.named_parameters()]
    cases = {
        ("all", "none"): (names, [], []),
        ("head", "none"): (["head.weight", "head.bias"], [], names[:-2]),
        ("head", "rest"): (["head.weight", "head.bias"], names[:-2], []),
        ("head", r"layers\.0"): (["head.weight", "head.bias"], names[:2], names[2:4]),
        (r"bias$", r"head\.weight"): (names[1::2], ["head.weight"], ["layers.0.weight", "layers.1.weight"]),
    }
    for (adapted, conditional), expected in cases.items():
        network = BaseNetwork(mlp, adapted, conditional)
        shared = [name.removeprefix("module.") for name, _ in network.named_parameters()]
        assert (list(network.adapted_shapes), list(network.conditional_shapes), shared) == expected
        sizes = {name: parameter.numel() for name, parameter in mlp.named_parameters()}
        assert network.num_adapted == sum(sizes[name] for name in expected[0])
        assert network.num_conditional == sum(sizes[name] for name in expected[1])


def test_the_users_module_is_copied_and_left_as_it_was(mlp):
    before = {name: parameter.clone() for name, parameter in mlp.named_parameters()}
    network = BaseNetwork(mlp, "head")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert {name: parameter.tolist() for name, parameter in mlp.named_parameters()} == {
        name: value.tolist() for name, value in before.items()
    }


def test_generated_values_reach_the_gradient_and_shared_ones_stay_parameters(mlp):
    network, x = BaseNetwork(mlp, "head", r"layers\.0"), draws(6, 2)
    adapted, conditional = draws(network.num_adapted).requires_grad_(), draws(network.num_conditional).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, c: network(a, c, x), (adapted, conditional))
    network(adapted, conditional, x).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


LAYERS = {
    "linear": (nn.Linear(4, 3), (4,)),
    "convolution": (nn.Conv2d(2, 3, 2, stride=2, padding=1), (2, 4, 4)),
    "layer norm": (nn.LayerNorm(4), (3, 4)),
    "layer norm without bias": (nn.LayerNorm([3, 4], bias=False), (3, 4)),
    "batch norm": (nn.BatchNorm1d(4, track_running_stats=False), (4,)),
    "batch norm of images": (nn.BatchNorm2d(2, track_running_stats=False), (2, 3, 3)),
    "instance norm": (nn.InstanceNorm1d(2, affine=True), (2, 5)),
    "group norm": (nn.GroupNorm(2, 4), (4, 3)),
    "evaluated batch norm": (nn.BatchNorm1d(4).eval(), (4,)),
}


@pytest.mark.parametrize(("layer", "x_shape"), LAYERS.values(), ids=LAYERS)
def test_a_gradient_step_under_vmap_has_the_meta_gradient_of_a_loop(layer, x_shape):
    """torch gets this wrong for its own layer, batch and instance norm: see `mcb.networks.normalization`."""
    layer = nn.Sequential(layer, nn.Flatten()).double()
    network, none, x = BaseNetwork(layer), torch.zeros(0).double(), draws(6, *x_shape)
    start, width = network.initial_adapted + 0.3 * draws(3, network.num_adapted), torch.ones_like(x)
    torch.nn.utils.vector_to_parameters(start[0], layer.parameters())
    torch.testing.assert_close(network(start[0], none, x), layer(x))

    def loss(adapted: Tensor, width: Tensor) -> Tensor:
        output = network(adapted, none, x * width)
        return (output.tanh() * torch.linspace(-1, 2, output.numel()).view_as(output)).sum().sin()

    def after_a_step(adapted: Tensor, width: Tensor) -> Tensor:
        return loss(adapted + 0.1 * grad(loss)(adapted, width), width)

    def batched(start: Tensor, width: Tensor) -> Tensor:
        return vmap(after_a_step, in_dims=(0, None))(start, width).sum()

    def looped(start: Tensor, width: Tensor) -> Tensor:
        return torch.stack([after_a_step(one, width) for one in start]).sum()

    leaves = (start.requires_grad_(), width.requires_grad_())
    got, expected = (torch.autograd.grad(function(*leaves), leaves) for function in (batched, looped))
    torch.testing.assert_close(got, expected)


@MODULES
def test_vmap_over_parameter_vectors_equals_a_loop(module, x_shape):
    network = BaseNetwork(module.double())
    adapted, none, x = draws(4, network.num_adapted), torch.zeros(0).double(), draws(6, *x_shape)
    loop = torch.stack([network(one, none, x) for one in adapted])
    torch.testing.assert_close(vmap(network, in_dims=(0, None, None))(adapted, none, x), loop)


@pytest.mark.parametrize("conditional", ["none", "rest", r"layers\.1"])
def test_predictions_are_linear_in_the_head_on_its_features(mlp, conditional):
    network, x = BaseNetwork(mlp, "head", conditional), draws(6, 2)
    adapted, generated = draws(network.num_adapted), draws(network.num_conditional, seed=1)
    features = network.features(generated, x)
    weight, bias = adapted[:12].view(3, 4), adapted[12:]
    torch.testing.assert_close(network(adapted, generated, x), features @ weight.T + bias)


def test_a_linear_head_is_seen_where_exactly_its_parameters_are_adapted(mlp):
    without_bias = MLP(2, 3, hidden=(4,))
    without_bias.head = nn.Linear(4, 3, bias=False)
    deep = MLP(2, 3, hidden=(4,))
    deep.head = nn.Sequential(nn.Linear(4, 3))  # pyright: ignore[reportAttributeAccessIssue]
    cases = [
        (mlp, "head", True),
        (mlp, r"^head\.", True),
        (without_bias, "head", True),
        (mlp, "all", False),
        (mlp, r"head\.weight", False),
        (mlp, r"layers\.0", False),
        (deep, "head", False),
        (nn.Linear(2, 3), "all", False),
        (Normalised(), "output", False),
    ]
    for module, adapted, expected in cases:
        assert (BaseNetwork(module, adapted).linear_head is not None) == expected, (module, adapted)


def test_the_last_features_are_rectified_linear_functions_of_the_layer_below(mlp):
    rectified = MLP(2, 3, hidden=(5, 4), num_rectified=3).double()
    rectified.load_state_dict(mlp.state_dict())
    x = 3 * draws(20, 2)
    features, smooth = rectified.features(x), mlp.features(x)
    torch.testing.assert_close(features[:, :1], smooth[:, :1])
    torch.testing.assert_close(features[:, 1:], smooth[:, 1:].atanh().clamp(min=0))
    assert (features[:, 1:] == 0).any() and (features[:, 1:] > 0).any()


def test_behind_a_bottleneck_the_head_sees_combinations_of_the_features(mlp):
    narrow = MLP(2, 3, hidden=(5, 4), bottleneck=2).double()
    narrow.load_state_dict({**mlp.state_dict(), "combine.weight": draws(2, 4), "head.weight": draws(3, 2)})
    x = draws(20, 2)
    torch.testing.assert_close(narrow.features(x), mlp.features(x) @ draws(2, 4).T)
    torch.testing.assert_close(narrow(x), narrow.features(x) @ draws(3, 2).T + mlp.head.bias)


def test_mlp_is_the_composition_of_its_layers(mlp):
    x = draws(6, 2)
    first, second = mlp.layers
    features = torch.tanh(second(torch.tanh(first(x))))
    torch.testing.assert_close(mlp.features(x), features)
    torch.testing.assert_close(mlp(x), mlp.head(features))
    relu = MLP(2, 3, hidden=(5,), activation="relu")
    assert (relu.features(x.float()) >= 0).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: BaseNetwork(nn.Linear(2, 1), "haed"),
            r"adapted='haed' selects no parameter; the names are weight, bias",
        ),
        (lambda: BaseNetwork(MLP(2, 1), "head", "all"), r"conditional='all' selects head\.bias, which adapted='head'"),
        (lambda: BaseNetwork(nn.Linear(2, 1), "("), r"the pattern '\(' is no regular expression \(.*\): escape it"),
        (lambda: MLP(1, 1, hidden=()), r"hidden=\(\) must name at least one layer"),
        (lambda: MLP(1, 1, hidden=(4,), num_rectified=5), r"num_rectified=5 must lie in 0\.\.4"),
        (lambda: MLP(1, 1, bottleneck=-1), "bottleneck=-1 must be at least 0"),
        (lambda: MLP(1, 1, activation="tan"), r"activation='tan' must be one of tanh, relu, silu"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(build, message):
    with pytest.raises(ValueError, match=message):
        build()
