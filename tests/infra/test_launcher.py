"""The cluster launcher's files, by the launcher's own validator; nothing is asked of any cloud."""

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from schemas import INFRA

FILES = {path.name: path for path in sorted((INFRA / "launcher").glob("*.yaml"))}


def test_there_is_one_for_aws_and_one_for_ones_own_machines():
    assert {yaml.safe_load(path.read_text())["provider"]["type"] for path in FILES.values()} == {"aws", "local"}


@pytest.mark.parametrize("name", FILES)
def test_the_launcher_accepts_it(name):
    prepared = prepare_config(yaml.safe_load(FILES[name].read_text()))
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]
    assert prepared["docker"]["image"].startswith("mcb-maml:")


@pytest.mark.parametrize("name", FILES)
def test_the_launcher_refuses_a_misspelt_field(name):
    config = yaml.safe_load(FILES[name].read_text()) | {"max_wokers": 2}
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("name", FILES)
def test_nodes_ask_for_a_token_and_the_dashboard_stays_on_the_head(name):
    config = yaml.safe_load(FILES[name].read_text())
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    (start,) = (command for command in config["head_start_ray_commands"] if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in start
