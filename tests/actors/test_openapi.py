"""Requests made from the endpoint's own OpenAPI document, good and bad: none may end in a 5xx.

Texts are as long as they come, so the judge is asked little and what is tested is the endpoint.
"""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode


@pytest.fixture(scope="module")
def document(endpoint: str) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{endpoint}/openapi.json")


def hasten(asked: Any) -> None:
    """Where a request waits for others of its group, it need not wait for long."""
    if isinstance(asked, list):
        for one in asked:
            hasten(one)
    elif isinstance(asked, dict) and isinstance(asked.get("window_s"), int | float) and asked["window_s"] <= 60:
        asked["window_s"] = min(asked["window_s"], 0.05)


@pytest.mark.parametrize("examples", [5, pytest.param(12, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_ends_in_a_server_error(
    document: schemathesis.BaseSchema, endpoint: str, mode: GenerationMode, examples: int
) -> None:
    """`examples` good or bad requests for each operation."""
    asked: dict[str, set[int]] = {}
    for found in document.get_all_operations():
        operation = found.ok()

        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        def answered(case: schemathesis.Case) -> None:
            hasten(case.query)
            hasten(case.body)
            response = case.call(base_url=endpoint, timeout=60)
            asked.setdefault(case.path, set()).add(response.status_code)
            assert response.status_code < 500, f"{case.as_curl_command()}\n{response.text}"

        if mode is GenerationMode.POSITIVE or operation.body:
            answered()
    assert {"/judge", "/rank", "/score", "/get_reward", "/reward", "/v1/chat/completions", "/compare"} <= asked.keys()
    if mode is GenerationMode.NEGATIVE:
        assert all(statuses - {200} for statuses in asked.values()), asked
