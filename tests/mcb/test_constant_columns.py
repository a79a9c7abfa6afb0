import torch

from mcb.modes.clustered import Clustered
from mcb.modes.clustering import KMeans


def test_a_number_that_all_tasks_share_and_that_moves_between_refreshes_does_not_disturb_the_matching():
    torch.manual_seed(0)
    modes = Clustered(3, 4, 2, KMeans(2))
    where = torch.tensor([0.0] * 20 + [10.0] * 30) + 0.1 * torch.randn(50)
    for common in (0.0, 7.0):
        found = modes.refresh(torch.stack([where, torch.full((50,), common)], dim=1), seed=0)
        assert found.labels.tolist() == [1] * 20 + [0] * 30
        for buffer, value in zip(modes.state(), found.state, strict=True):
            buffer.copy_(value)
