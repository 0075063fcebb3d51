"""vLLM's pooling routes, which verl, rerankers and search clients speak: a response's value is its share of wins.

A document is a response to its query. Those of one query in a request are compared with each other; a single one meets
those of other requests, as a policy's samples do (see `groups`).
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from actors.serving import transcripts
from actors.serving.groups import Placed
from actors.serving.native import Here
from actors.serving.openai import OpenAIError, OpenAIRoute
from actors.serving.samples import MOST_SAMPLES, ChatTurn, Grouping, Received, Sent, Where, asked, placed, refused, sent
from actors.serving.service import Service
from actors.serving.transcripts import Transcript
from evals.pairs import Message

router = APIRouter(
    tags=["vLLM"], route_class=OpenAIRoute, responses={400: {"model": OpenAIError, "description": "What is wrong"}}
)


class Counted(BaseModel):
    """Tokens of each question with its response in the judge's tokenizer; what the judge wrote is not counted."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class Listed(BaseModel):
    """What vLLM's answers have in common."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    model_version: int = Field(description="Weight version that judged; the newest, where a swap came in between")
    usage: Counted


class ClassifyRequest(Received):
    """vLLM's request, as verl sends it: conversations whose last turn is the response."""

    model: str | None = Field(None, description="Not looked at: there is one judge, and verl names its own model here")
    input: str | list[str] | None = Field(
        None,
        description="Conversations in a chat template (ChatML, Llama 3, DeepSeek). Where a policy may write the "
        "template's headers itself, it decides where its response begins: send messages then",
    )
    messages: list[ChatTurn] | None = Field(None, description="One conversation; its last message is the response")
    use_activation: bool | None = Field(
        None, description="false: the log-odds of winning a comparison instead of the share that was won"
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"messages": [{"role": "user", "content": "Compute 3+4-2."}, {"role": "assistant", "content": "5"}]}
            ]
        }
    )

    @model_validator(mode="after")
    def _one_input(self) -> ClassifyRequest:
        if (self.input is None) == (self.messages is None):
            raise PydanticCustomError("one_input", "Give either input or messages, and not both")
        if isinstance(self.input, list) and len(self.input) > MOST_SAMPLES:
            raise PydanticCustomError("limit", f"input has {len(self.input)} texts; send {MOST_SAMPLES} or fewer")
        if self.messages is not None and (len(self.messages) < 2 or self.messages[-1].role != "assistant"):
            raise PydanticCustomError("messages", "The last of two or more messages must be the assistant's response")
        return self


class Classified(BaseModel):
    """The value of one response."""

    index: int
    label: Literal["reward"] = "reward"
    probs: list[float] = Field(description="One number, the reward")
    num_classes: Literal[1] = 1
    neutral: bool = Field(description="Whether it says nothing: nothing to compare with, or never a verdict")
    how: str = Field(description="What it was compared with: group, anchor, late or alone")


class ClassifyResponse(Listed):
    """One value for each conversation."""

    data: list[Classified]


@router.post("/classify", summary="vLLM, verl: the reward of a conversation's last turn")
async def classify(request: ClassifyRequest, options: Annotated[Grouping, Query()], here: Here) -> ClassifyResponse:
    """verl's discriminative reward, which it reads as `data[-1].probs[-1]`."""
    samples = [
        sent(where, question, written, **options.model_dump()) for where, question, written in _conversations(request)
    ]
    places = await placed(here, samples)
    data = [
        Classified(index=index, probs=[_value(place, request.use_activation)], neutral=place.neutral, how=place.how)
        for index, place in enumerate(places)
    ]
    return ClassifyResponse(**await _listed(here, samples, places), data=data)


def _conversations(request: ClassifyRequest) -> Iterator[tuple[Where, Transcript, str]]:
    """Each question with what the policy wrote. Raises RequestValidationError where a text is no conversation."""
    if request.messages is not None:
        yield ("body", "messages"), asked(request.messages[:-1]), request.messages[-1].text()
        return
    texts = request.input if isinstance(request.input, list) else [request.input or ""]
    for index, text in enumerate(texts):
        where: Where = ("body", "input", index)
        if (found := transcripts.answered(text)) is None:
            raise refused(where, "Is no conversation in a known chat template that ends with the assistant's turn")
        yield where, Transcript(found[0], None), found[1]


def _value(place: Placed, use_activation: bool | None) -> float:
    """The share of wins, or its log-odds with half a win and half a loss more, which keeps them finite."""
    if use_activation is not False:
        return place.score
    games = max(place.comparisons, 1)
    return math.log((games * place.score + 0.5) / (games * (1 - place.score) + 0.5))


async def _listed(here: Service, samples: Sequence[Sent], places: Sequence[Placed]) -> dict[str, Any]:
    """What an answer has beside its data."""

    def count() -> int:
        encode = here.engine.encoder.encode_prompt
        texts = ((*(turn["content"] for turn in one.sample.messages()), one.sample.response) for one in samples)
        return sum(len(encode([Message(role="user", content="\n".join(text))])) for text in texts)

    tokens = await asyncio.to_thread(count)
    return {
        "id": uuid.uuid4().hex,
        "created": int(time.time()),
        "model": here.name,
        "model_version": max((place.version for place in places), default=here.engine.version),
        "usage": Counted(prompt_tokens=tokens, total_tokens=tokens),
    }


Texts = str | list[str]


class ScoreTexts(Received):
    """vLLM's request: queries and documents, under any of its names for them."""

    model: str | None = Field(None, description="Not looked at: there is one judge")
    queries: Texts | None = Field(None, description="What was asked: one for all documents, or one for each")
    documents: Texts | None = Field(None, description="Responses")
    items: Texts | None = Field(None, description="documents, beside queries")
    text_1: Texts | None = Field(None, description="queries")
    text_2: Texts | None = Field(None, description="documents")
    data_1: Texts | None = Field(None, description="queries")
    data_2: Texts | None = Field(None, description="documents")
    use_activation: bool | None = Field(None, description="false: log-odds instead of the share of comparisons won")

    model_config = ConfigDict(json_schema_extra={"examples": [{"queries": "Compute 3+4-2.", "documents": ["5", "6"]}]})

    @model_validator(mode="after")
    def _one_pair_of_names(self) -> ScoreTexts:
        given = [names for names in _NAMES if all(getattr(self, name) is not None for name in names)]
        named = sum(getattr(self, name) is not None for name in {name for names in _NAMES for name in names})
        if len(given) != 1 or named != 2:
            raise PydanticCustomError("names", "Give queries and documents, and nothing else of that kind")
        queries, documents = self.queries_and_documents()
        if len(queries) not in (1, len(documents)) or not documents:
            counts = f"{len(queries)} queries and {len(documents)} documents"
            raise PydanticCustomError("lengths", f"{counts} do not fit; give one query for all, or one for each")
        if len(documents) > MOST_SAMPLES:
            raise PydanticCustomError("limit", f"{len(documents)} documents; send {MOST_SAMPLES} or fewer")
        return self

    def queries_and_documents(self) -> tuple[list[str], list[str]]:
        """Both as lists."""
        for names in _NAMES:
            queries, documents = (getattr(self, name) for name in names)
            if queries is not None and documents is not None:
                return _several(queries), _several(documents)
        return [], []


_NAMES = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))


def _several(texts: Texts) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


class Scored(BaseModel):
    """The score of one document."""

    index: int
    object: Literal["score"] = "score"
    score: float
    neutral: bool = Field(description="Whether it says nothing: nothing to compare with, or never a verdict")
    how: str = Field(description="What it was compared with: group, anchor, late or alone")


class ScoreTextsResponse(Listed):
    """The score of each document, in order."""

    data: list[Scored]


@router.post("/v1/score", summary="vLLM: scores of documents")
async def score(request: ScoreTexts, options: Annotated[Grouping, Query()], here: Here) -> ScoreTextsResponse:
    """Documents are responses to their query. (`/score` is Gavel's own route.)"""
    queries, documents = request.queries_and_documents()
    questions = [asked(query) for query in queries]
    questions = questions * len(documents) if len(questions) == 1 else questions
    samples = [
        sent(("body", "documents", index), question, document, **options.model_dump())
        for index, (question, document) in enumerate(zip(questions, documents, strict=True))
    ]
    places = await placed(here, samples)
    data = [
        Scored(index=index, score=_value(place, request.use_activation), neutral=place.neutral, how=place.how)
        for index, place in enumerate(places)
    ]
    return ScoreTextsResponse(**await _listed(here, samples, places), data=data)


class Document(BaseModel):
    """A document."""

    text: str


class RerankRequest(Received):
    """vLLM's, Jina's and Cohere's request."""

    model: str | None = Field(None, description="Not looked at: there is one judge")
    query: str
    documents: list[str | Document] = Field(min_length=1, max_length=MOST_SAMPLES, description="Responses to the query")
    top_n: int | None = Field(None, ge=0, description="How many of the best to return; empty or 0: all")
    return_documents: bool = True

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "Compute 3+4-2.", "documents": ["6", "5"], "top_n": 1}]}
    )


class Reranked(BaseModel):
    """A document and its place among the others."""

    index: int = Field(description="Its place in the request")
    document: Document | None = None
    relevance_score: float = Field(description="Share of comparisons won, 0 to 1")
    neutral: bool = Field(description="Whether that says nothing: nothing to compare with, or never a verdict")
    how: str = Field(description="What it was compared with: group, anchor, late or alone")


class RerankResponse(BaseModel):
    """The documents from best to worst; equal ones as they were sent."""

    id: str
    model: str
    model_version: int
    usage: Counted
    results: list[Reranked]


@router.post("/rerank", summary="Rerank documents", response_model_exclude_none=True)
@router.post("/v1/rerank", summary="Rerank documents", response_model_exclude_none=True)
@router.post("/v2/rerank", summary="Rerank documents", response_model_exclude_none=True)
async def rerank(request: RerankRequest, options: Annotated[Grouping, Query()], here: Here) -> RerankResponse:
    """Compare the documents with each other as responses to the query."""
    question = asked(request.query)
    documents = [one if isinstance(one, Document) else Document(text=one) for one in request.documents]
    samples = [
        sent(("body", "documents", index), question, document.text, **options.model_dump())
        for index, document in enumerate(documents)
    ]
    places = await placed(here, samples)
    best_first = sorted(range(len(places)), key=lambda index: -places[index].score)
    listed = await _listed(here, samples, places)
    return RerankResponse(
        **{name: listed[name] for name in ("id", "model", "model_version", "usage")},
        results=[
            Reranked(
                index=index,
                document=documents[index] if request.return_documents else None,
                relevance_score=places[index].score,
                neutral=places[index].neutral,
                how=places[index].how,
            )
            for index in best_first[: request.top_n or None]
        ],
    )
