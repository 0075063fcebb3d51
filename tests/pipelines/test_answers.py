"""What servers say: their own words about an error, and whether these are about a prompt's length."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from pipelines.answers import detail, is_about_length


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 5012 tokens.",
        "This model's maximum context length is 512 tokens. However, you requested 64 output tokens and your prompt "
        "contains at least 449 input tokens, for a total of at least 513 tokens. Please reduce the length of the input",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The decoder prompt (length 600) is longer than the maximum model length of 512.",
        "Input length (600) exceeds model's maximum context length (512).",
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300011 tokens.",
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        "Invalid 'messages[0].content': string too long. Expected a string with maximum length 10485760.",
        "input length and `max_tokens` exceed context limit: 199904 + 20000 > 200000",
    ],
)
def test_a_prompt_that_is_too_long_is_known(message: str) -> None:
    assert is_about_length(message)


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported value: 'temperature' does not support 0.2 with this model.",
        "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens",
        "The model `x` does not exist.",
        "Invalid 'user': string too long. Expected a string with maximum length 64.",
        "max_completion_tokens=8192 cannot be greater than max_model_len=2048. Please request fewer output tokens.",
        "Invalid type for 'messages[0].content': expected a string",
    ],
)
def test_other_faults_are_not_about_length(message: str) -> None:
    assert not is_about_length(message)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no such model"}}, "no such model"),
        ({"message": "no such model"}, "no such model"),
        ({"detail": [{"msg": "a"}, "b"]}, "a; b"),
    ],
)
def test_the_servers_own_words_are_found(body: dict[str, object], words: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(400, text=json.dumps(body)))
    client = openai.OpenAI(base_url="http://x/v1", api_key="none", http_client=httpx.Client(transport=transport))
    with pytest.raises(openai.BadRequestError) as error:
        client.models.list()
    assert detail(error.value) == words
