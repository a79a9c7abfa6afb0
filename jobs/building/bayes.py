"""The Bayes-optimal predictions that are shipped with the library, by the tasks that they belong to."""

from mcb.limits import REFERENCES, BayesReference, load_reference
from mcb.tasks.curves import CurveTasks
from mcb.tasks.regression import RegressionFamilies


def shipped_reference(source: RegressionFamilies | CurveTasks) -> BayesReference | None:
    """Those of the standard test tasks of `source`; None where there are none."""
    for name, reference_source in REFERENCES.items():
        if source == reference_source:
            return load_reference(name)
    return None


def bayes_limit(source: RegressionFamilies | CurveTasks) -> float | None:
    """NLL of the Bayes-optimal predictor, nats per query point, where a reference is shipped."""
    reference = shipped_reference(source)
    return None if reference is None else reference.nll.mean().item()
