import pickle
import shutil
from pathlib import Path

import pytest
from fake_learner import training_plan

from cluster.code_version import SameCode, code_version, digest, require_code
from cluster.errors import ClusterError
from cluster.server import Server
from cluster.slices import Slice

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in ("mcb", "cluster", "jobs"):
        shutil.copytree(ROOT / package, tmp_path / package)
    return tmp_path


def test_a_copy_elsewhere_is_the_same_code(copy: Path):
    (copy / "cluster" / "__pycache__").mkdir(exist_ok=True)
    (copy / "cluster" / "notes.txt").write_text("not code")
    assert digest(copy) == digest(ROOT)
    assert digest(ROOT) in code_version()


@pytest.mark.parametrize("change", ["a byte", "a name", "a new file", "a file less"])
def test_any_change_of_a_source_is_other_code(copy: Path, change: str):
    path = copy / "mcb" / "types.py"
    match change:
        case "a byte":
            path.write_bytes(path.read_bytes() + b"\n")
        case "a name":
            path.rename(path.with_name("kinds.py"))
        case "a new file":
            path.with_name("more.py").touch()
        case "a file less":
            path.unlink()
    assert digest(copy) != digest(ROOT)


def test_a_server_and_a_slice_of_other_code_are_refused(tmp_path: Path):
    plan = training_plan(tmp_path).server
    Slice(code_version(), plan.optimizer, plan.num_steps, "float32")
    with pytest.raises(ClusterError, match="runs other code than the run"):
        Slice("sources 0", plan.optimizer, plan.num_steps, "float32")
    with pytest.raises(ClusterError, match="runs other code than the run"):
        Server("sources 0", plan)


def test_only_the_same_code_can_unpickle_its_version():
    assert pickle.loads(pickle.dumps(SameCode(code_version()))) == code_version()
    with pytest.raises(ClusterError, match="runs other code than the run"):
        pickle.loads(pickle.dumps(SameCode("sources 0")))


def test_other_code_is_refused_naming_both(monkeypatch: pytest.MonkeyPatch):
    require_code(code_version())
    with pytest.raises(ClusterError, match=r"other code than the run: it has sources .*, the run sources 0; give"):
        require_code("sources 0")
