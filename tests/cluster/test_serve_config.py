"""The Serve configuration against Serve's schema and ours, offline.

Serve itself takes what it does not know and leaves it out, so a key with a slip in it would say nothing.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from pipelines import serve as command
from pipelines.hosting import ServeError

CONFIG = Path(__file__).parents[2] / "cluster" / "serve.yaml"


def unknown(values: Any, model: type[BaseModel], where: str = "") -> Iterator[str]:
    """Keys at any depth that Serve's schema has no field for. `args` and `user_config` are the application's."""
    for name, value in values.items():
        field = model.model_fields.get(name)
        if field is None:
            yield where + name
        elif name not in ("args", "user_config"):
            inner = [field.annotation, *typing.get_args(field.annotation)]
            models = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
            for part in value if isinstance(value, list) else [value]:
                if models and isinstance(part, dict):
                    yield from unknown(part, models[0], f"{where}{name}.")


@pytest.fixture
def config(first_is_better: Path) -> dict[str, Any]:
    values = yaml.safe_load(CONFIG.read_text())
    (application,) = values["applications"]
    assert not Path(application["args"]["model"]).is_absolute(), "nobody's own path is in the project"
    application["args"]["model"] = str(first_is_better)
    return values


def test_serve_knows_every_key(config: dict[str, Any]) -> None:
    read = ServeDeploySchema.model_validate(config)
    assert read.http_options.host == "127.0.0.1", "nobody else is answered unless that is decided"
    assert not list(unknown(config, ServeDeploySchema))
    config["http_options"]["prot"] = 1
    config["applications"][0]["deployments"][0]["user_confg"] = {}
    assert ServeDeploySchema.model_validate(config), "Serve alone would not have said so"
    assert list(unknown(config, ServeDeploySchema)) == ["http_options.prot", "applications.deployments.user_confg"]


def test_the_arguments_build_the_application_that_is_configured(config: dict[str, Any]) -> None:
    (application,) = config["applications"]
    assert application["import_path"] == "pipelines.serve:app"
    application["args"]["serve"]["limits"]["responses"] = 5
    built = command.app(application["args"])
    assert {override["name"] for override in application["deployments"]} == {built._bound_deployment.name} == {"Judge"}
    model, _, rollout, limits, _, device, *_ = built._bound_deployment.init_args
    assert model == str(Path(application["args"]["model"]).resolve())
    assert (limits.responses, rollout.max_num_seqs, device) == (5, 256, "cpu")


def test_dotted_arguments_of_serve_run_say_the_same(first_is_better: Path) -> None:
    dotted = {"model": str(first_is_better), "serve.limits.responses": "5", "rollout.threads": "2"}
    nested = {"model": str(first_is_better), "serve": {"limits": {"responses": 5}}, "rollout": {"threads": 2}}
    one, other = (command.app(given)._bound_deployment for given in (dotted, nested))
    assert one.version == other.version
    assert one.version != command.app({"model": str(first_is_better)})._bound_deployment.version
    assert one.ray_actor_options["num_cpus"] == 2


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"serve": {"limits": {"respnses": 5}}}, r"serve\.limits\.respnses: Extra inputs are not permitted"),
        ({"serve.replicas": "0"}, r"serve\.replicas: Input should be greater than 0 \(got '0'\)"),
        ({"modl": "x"}, r"modl: Extra inputs"),
        ({"serve": {"port": 1}}, r"serve\.port: belongs to http_options"),
        ({"model": "nowhere"}, "nowhere: there is no such folder"),
        ({"model": ""}, "name the judge to serve"),
    ],
)
def test_what_is_wrong_with_arguments_is_said(first_is_better: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ServeError, match=says):
        command.app({"model": str(first_is_better)} | wrong)
