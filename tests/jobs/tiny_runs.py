"""Runs small enough for a test: four meta-steps in this process."""

TINY = (
    "--train.num-steps=4",
    "--train.meta-batch=10",
    "--modes.num-modes=3",
    "--modes.code-size=4",
    "--network.hidden=8,4",
    "--network.num-rectified=2",
    "--hypernetwork.hidden=8",
    "--evaluation.num-tasks=60",
    "--evaluation.num-mapping-tasks=40",
    "--evaluation.batch-size=30",
    "--cluster.num-workers=0",
    "--tracking.log-model=false",
)

CLUSTERED = (
    "--modes.kind=clustered",
    "--modes.strategy=k-means",
    "--modes.num-reservoir=40",
    "--modes.refresh-every=2",
    "--modes.refresh-lag=1",
)
