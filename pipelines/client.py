"""A client of the served judge, and the reward functions that trainers load from this file.

It needs httpx and nothing else of Gavel, so the file can be copied to where a trainer runs. The reward functions find
the judge by GAVEL_URL (http://127.0.0.1:8000 where it is not set) and GAVEL_API_KEY.

    OpenRLHF   --reward.remote_url client.py                                   reward_func
    verl       reward.custom_reward_function.path=client.py, name=compute_score compute_score
    TRL        GRPOTrainer(reward_funcs=gavel_reward, ...)                     gavel_reward
    slime      --group-rm --custom-rm-path pipelines.client.group_reward       group_reward

A judge compares responses, so a reward says how a response did among others to the same prompt. Samples that a
trainer sends together are compared with each other. Those that come one by one, or from several processes, meet on the
server, which waits for GAVEL_GROUP_SIZE of them where that is set. Where no reward can be had, all of them raise
GavelError: nothing is silently 0. Whether a reward is neutral (there was nothing to compare with, or no verdict) is
told wherever the trainer takes more than a number.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Self

import httpx

Conversation = Sequence[Mapping[str, Any]]
"""Messages with role and content."""

_WORTH_REPEATING = {408, 429, 500, 502, 503, 504}
_LONGEST_PAUSE_S = 30.0


class GavelError(RuntimeError):
    """There is no answer; the message says what was asked where, and why. `status` is HTTP's, if there was one."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class GavelClient:
    """A served judge. Safe to use from several threads and event loops at once.

    Requests that fail for the moment (429, 5xx, no connection, no answer in `timeout_s`) are repeated up to `retries`
    times, after what Retry-After says or growing pauses. All of them can be repeated without harm. Where there is no
    answer in the end, GavelError is raised. Close it, or use it in a `with` block.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout_s: float = 120.0, retries: int = 5, connections: int = 256
    ):
        self._url = url.rstrip("/")
        self._retries = retries
        # Idle connections are not kept for long: a server that closed one first would fail the next request.
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=2)
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, pool=None),
            limits=limits,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gavel-client", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls) -> Self:
        """The judge at GAVEL_URL, with the key in GAVEL_API_KEY if there is one."""
        return cls(os.environ.get("GAVEL_URL", "http://127.0.0.1:8000"), os.environ.get("GAVEL_API_KEY"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End connections and thread; requests in progress fail."""
        asyncio.run_coroutine_threadsafe(self._http.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def judge(self, prompt: str | Conversation, response_a: str, response_b: str, **options: Any) -> dict[str, Any]:
        """Compare two responses: POST /judge. Options are its other fields: order, votes, seed, ..."""
        return self.post("/judge", _question(prompt) | {"response_a": response_a, "response_b": response_b} | options)

    def rank(self, prompt: str | Conversation, responses: Sequence[str], **options: Any) -> dict[str, Any]:
        """Rank responses: POST /rank. Options are its other fields: method, duplicates, scale, ..."""
        return self.post("/rank", _question(prompt) | {"responses": list(responses)} | options)

    def score(self, prompt: str | Conversation, response: str, **options: Any) -> dict[str, Any]:
        """Score one response: POST /score. Options are its other fields: reference, anchor, ..."""
        return self.post("/score", _question(prompt) | {"response": response} | options)

    def rewards(self, prompt: str | Conversation, responses: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        """The rewards of a policy's responses, which may be empty and are compared with each other: POST /reward.

        Options are fields of every sample: group, group_size, window_s, anchor.
        """
        return self.post("/reward", _samples(prompt, responses, options))

    def compare(
        self, conversation: Conversation, responses: Sequence[str], comparison: str = "circular"
    ) -> dict[str, Any]:
        """Compare a group in NeMo Gym's shape, scores from 1 to 5: POST /compare. `comparison` may be all_pairs."""
        outputs = [{"type": "message", "content": [{"type": "output_text", "text": text}]} for text in responses]
        body = {"conversation_history": list(conversation), "response_objs": [{"output": [one]} for one in outputs]}
        return self.post(f"/compare?comparison={comparison}", body)

    def version(self) -> dict[str, Any]:
        """What is being served: GET /version."""
        return self._start("GET", "/version", None).result()

    def post(self, path: str, body: Any) -> Any:
        """Any other route: the JSON that it answers."""
        return self._start("POST", path, body).result()

    async def apost(self, path: str, body: Any) -> Any:
        """The same, awaited in any event loop."""
        return await asyncio.wrap_future(self._start("POST", path, body))

    def _start(self, method: str, path: str, body: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(self._answer(method, path, body), self._loop)

    async def _answer(self, method: str, path: str, body: Any) -> Any:
        asked = f"{method} {self._url}{path}"
        tries = 0
        while True:
            pause = min(_LONGEST_PAUSE_S, 0.5 * 2**tries) * random.uniform(0.5, 1)
            tries += 1
            try:
                answer = await self._http.request(method, f"{self._url}{path}", json=body)
            except httpx.TransportError as error:
                problem = GavelError(f"{asked}: no answer ({error!r})")
            else:
                if answer.is_success:
                    return _json(asked, answer)
                problem = GavelError(f"{asked}: {answer.status_code}, {_detail(answer)}", answer.status_code)
                if answer.status_code not in _WORTH_REPEATING:
                    raise problem
                pause = max(pause, min(_LONGEST_PAUSE_S, _retry_after(answer)))
            if tries > self._retries:
                raise GavelError(f"{problem}; gave up after {tries} tries", problem.status)
            await asyncio.sleep(pause)


def _json(asked: str, answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise GavelError(f"{asked}: answered {answer.text[:200]!r}, which is no JSON; is GAVEL_URL right?") from error


def _detail(answer: httpx.Response) -> str:
    """What the server says is wrong."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]
    if isinstance(detail, list):
        return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in detail)
    return str(detail)


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the server asks to wait for; 0 where it does not."""
    given = answer.headers.get("retry-after", "")
    if given.isdigit():
        return float(given)
    try:
        until = parsedate_to_datetime(given)
    except ValueError:
        return 0.0
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _question(prompt: str | Conversation) -> dict[str, Any]:
    return {"prompt": prompt} if isinstance(prompt, str) else {"conversation": list(prompt)}


def _samples(prompt: Any, responses: Sequence[str], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = {name: value for name, value in options.items() if value is not None}
    return [{"prompt": prompt, "response": response, **given} for response in responses]


@cache
def _of_process(process: int) -> GavelClient:
    return GavelClient.from_environment()


def _client() -> GavelClient:
    """One for each process: a fork takes no threads along."""
    return _of_process(os.getpid())


def _group_size() -> int | None:
    size = os.environ.get("GAVEL_GROUP_SIZE", "")
    if size and not size.isdigit():
        raise GavelError(f"GAVEL_GROUP_SIZE={size} must be a whole number: the trainer's samples of a prompt")
    return int(size) if size else None


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
    """OpenRLHF's reward function: POST /get_reward, whose answer it returns.

    Rewards and scores lie in 0 to 1; `extra_logs` has how samples were judged, as numbers.
    """
    size = _group_size()
    body = {"query": list(queries), "prompts": list(prompts), "labels": list(labels)}
    return _client().post(f"/get_reward?group_size={size}" if size else "/get_reward", body)


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    group_size: int | None = None,
    window_s: float | None = None,
    **_: Any,
) -> dict[str, float]:
    """verl's reward function for one sample. The prompt is `extra_info["prompt"]`, as text or as messages.

    Set `group_size` (verl's rollout.n) and `window_s` in verl's `reward_kwargs`, so that samples of a prompt meet.
    Returns score (0 to 1), and as numbers whether it is neutral, how many were judged together, and the version.
    """
    prompt = (extra_info or {}).get("prompt")
    if prompt is None or not len(prompt):
        raise GavelError(f'{data_source}: extra_info has no "prompt"; put the prompt\'s text or messages there')
    messages = prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
    (sample,) = _samples(messages, [solution_str], {"group_size": group_size or _group_size(), "window_s": window_s})
    found = await _client().apost("/reward", sample)
    numbers = ("score", "neutral", "members", "no_verdict", "model_version")
    return {name: float(found[name]) for name in numbers}


async def gavel_reward(
    prompts: Sequence[str | Conversation], completions: Sequence[str | Conversation], **columns: Any
) -> list[float]:
    """TRL's reward function. Completions of one prompt are compared with each other.

    They are those of this process; where a group is spread over several, set GAVEL_GROUP_SIZE to num_generations.
    Logs the share of neutral rewards.
    """
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(repr(prompt), []).append(index)
    bodies = [
        _samples(prompts[group[0]], [_said(completions[index]) for index in group], {"group_size": _group_size()})
        for group in groups.values()
    ]
    answers = await asyncio.gather(*(_client().apost("/reward", body) for body in bodies))
    found: dict[int, dict[str, Any]] = {}
    for group, answer in zip(groups.values(), answers, strict=True):
        found.update(zip(group, answer, strict=True))
    rewards = [found[index] for index in range(len(prompts))]
    if log_metric := columns.get("log_metric"):
        log_metric("gavel/neutral", sum(reward["neutral"] for reward in rewards) / max(1, len(rewards)))
    return [reward["reward"] for reward in rewards]


def _said(completion: str | Conversation) -> str:
    """What a policy answered; of messages the last one."""
    return completion if isinstance(completion, str) else str(completion[-1].get("content") or "")


async def group_reward(args: Any, samples: Sequence[Any]) -> list[float]:
    """slime's reward function for a whole group (`--group-rm`), whose samples are compared with each other."""
    body = [{"prompt": sample.prompt, "response": sample.response} for sample in samples]
    return [found["reward"] for found in await _client().apost("/reward", body)]
