"""Requests made from the endpoint's own OpenAPI document, good and bad: none may end in a 5xx.

Texts are short and judgements few, so that what is tested is the endpoint and not the engine.
"""

from __future__ import annotations

import os

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error

_EXAMPLES = int(os.environ.get("GAVEL_OPENAPI_EXAMPLES", "25"))

schema = schemathesis.pytest.from_fixture("document")


@pytest.fixture(scope="module")
def document(endpoint: str) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{endpoint}/openapi.json")


@schema.parametrize()
@hypothesis.settings(
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
def test_no_request_ends_in_a_server_error(case: schemathesis.Case, endpoint: str) -> None:
    case.call_and_validate(base_url=endpoint, checks=[not_a_server_error], timeout=60)
