"""Gavel's own requests and answers, as they travel over HTTP.

A response is named by its place: `a` and `b` in a pair, its index from 0 in a list. Whatever is asked, a judgement
speaks of the responses as they were sent, however the judge was shown them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from actors.card import JudgeCard
from actors.config import Settings
from evals.pairs import Message
from evals.prompts import FORMATS
from evals.ranking import Method
from evals.ratings import Rating
from evals.verdicts import ORDERS, Order, Verdict


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("unicode", "Has half a surrogate pair; send proper Unicode") from error
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "Is empty; give the text that is to be judged")
    return text


def _known(name: str) -> str:
    if name not in FORMATS:
        raise PydanticCustomError("format", f"There is no such prompt format; name one of {', '.join(FORMATS)}")
    return name


AnyText = Annotated[str, AfterValidator(_whole)]
Text = Annotated[AnyText, AfterValidator(_not_blank)]


class Turn(Settings):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: AnyText


class Question(Settings):
    """What was asked: `prompt` where it is a single user message, or else the `conversation`."""

    prompt: Text | None = Field(None, description="What was asked, where it is a single user message")
    conversation: list[Turn] | None = Field(
        None, min_length=1, description="What was asked: the turns up to the responses, oldest first"
    )

    @model_validator(mode="after")
    def _one_question(self) -> Question:
        if (self.prompt is None) == (self.conversation is None):
            raise PydanticCustomError("one_question", "Give either prompt or conversation, and not both")
        if self.conversation and not any(turn.content.strip() for turn in self.conversation):
            raise PydanticCustomError("blank", "The conversation is empty; give at least one turn some content")
        return self

    def messages(self) -> tuple[Message, ...]:
        """The question as the messages that prompt formats take."""
        turns = self.conversation or [Turn(role="user", content=self.prompt or "")]
        return tuple(Message(role=turn.role, content=turn.content) for turn in turns)


class Asking(Settings):
    """How the judge is asked."""

    order: Literal["ab", "ba", "both"] = Field(
        "both",
        description="Which response the judge reads first. Judges favour positions: with `both` every pair is judged "
        "in both orders at the same time, and a verdict that depends on the order is none",
    )
    votes: int = Field(
        1,
        ge=1,
        le=64,
        description="Judgements in each order. With more than one, the verdict is what most of all judgements say, "
        "and `tie` where they are split evenly",
    )
    early_stop: bool = Field(
        False, description="Stop a vote as soon as its leader can hardly be overtaken (wrong in 5 of 100 at most)"
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description="0 is greedy. Empty: 0 for a single judgement of each order, 1 for votes"
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the likeliest tokens of this share; 1 is all")
    seed: int = Field(
        0, ge=0, lt=2**63, description="The same request and seed get the same judgements of the same weights"
    )
    max_tokens: int | None = Field(None, ge=1, description="Longest judgement; the server's limit is the default")
    format: Annotated[str, AfterValidator(_known)] | None = Field(
        None, description="Prompt format to ask in; empty: the one that the judge was trained with"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Asking:
        if self.votes > 1 and self.temperature == 0:
            raise PydanticCustomError("votes", "Greedy judgements are all the same; give votes a temperature")
        if self.early_stop and self.votes * len(self.orders()) < 2:
            raise PydanticCustomError("votes", "A single judgement cannot stop early; ask for more votes")
        return self

    def orders(self) -> tuple[Order, ...]:
        """The orders in which a pair is to be judged."""
        return ORDERS if self.order == "both" else (self.order,)


_QUESTION: dict[str, Any] = {"prompt": "Compute 3+4-2."}


class JudgeRequest(Asking, Question):
    """A pair to be judged."""

    response_a: Text = Field(description="One response to the question")
    response_b: Text = Field(description="Another one")
    stream: bool = Field(False, description="Answer with server-sent events while the judge writes")

    model_config = ConfigDict(json_schema_extra={"examples": [_QUESTION | {"response_a": "5", "response_b": "6"}]})

    @model_validator(mode="after")
    def _two_responses(self) -> JudgeRequest:
        if self.response_a == self.response_b:
            raise PydanticCustomError("identical", "response_a and response_b are the same; there is nothing to judge")
        return self


class Scale(Settings):
    """The range of scores."""

    scale: tuple[float, float] = Field(
        (0.0, 1.0),
        description="What the worst and the best possible score are. A win rate, the chance of beating an average "
        "response (Elo, Bradley-Terry), the share of rounds survived or a rating's place between its least and most "
        "is mapped there linearly, whatever the other responses got",
    )

    @model_validator(mode="after")
    def _ascends(self) -> Scale:
        if not self.scale[0] < self.scale[1]:
            raise PydanticCustomError("scale", "The first end of scale must be less than the second")
        return self

    def scaled(self, share: float) -> float:
        """A score between 0 and 1 in the range asked for."""
        low, high = self.scale
        return low + (high - low) * share


class RankRequest(Asking, Scale, Question):
    """Responses to be ranked."""

    responses: list[Text] = Field(min_length=2, description="Two or more; the server says how many it allows")
    method: Method = Field(
        "round_robin",
        description="Which responses meet: all of them, neighbours in a circle, winners of a knockout, or all in one "
        "listwise judgement",
    )
    aggregation: Rating | None = Field(
        None,
        description="What results become; empty: `win_rate`. A knockout rates by rounds survived and a listwise "
        "ranking by mean ratings: they take none",
    )
    duplicates: Literal["refuse", "tie"] = Field(
        "refuse", description="What identical responses are: a mistake, or a tie that the judge is not asked for"
    )
    judgements: bool = Field(True, description="Whether the answer has every judgement, or results alone")
    stream: bool = Field(False, description="Answer with server-sent events while the judge writes")

    model_config = ConfigDict(json_schema_extra={"examples": [_QUESTION | {"responses": ["5", "6", "4"]}]})

    @model_validator(mode="after")
    def _rankable(self) -> RankRequest:
        if self.duplicates == "refuse" and len({*self.responses}) < len(self.responses):
            first = next(i for i, one in enumerate(self.responses) if one in self.responses[:i])
            message = f"responses {self.responses.index(self.responses[first])} and {first} are identical; send each "
            raise PydanticCustomError("identical", message + "once, or ask for duplicates: tie")
        if self.aggregation and self.method in ("knockout", "listwise"):
            raise PydanticCustomError("aggregation", f"Leave aggregation out: a {self.method} ranking has its own")
        return self


class ScoreRequest(Asking, Scale, Question):
    """One response to be scored: against another one, or by itself."""

    response: Text = Field(description="The response to be scored")
    reference: Text | None = Field(None, description="An answer known to be right, to be judged against")
    anchor: Text | None = Field(None, description="Another response, to be judged against")

    model_config = ConfigDict(json_schema_extra={"examples": [_QUESTION | {"response": "5", "anchor": "6"}]})

    @model_validator(mode="after")
    def _one_opponent(self) -> ScoreRequest:
        if self.reference is not None and self.anchor is not None:
            raise PydanticCustomError("one_opponent", "Give either reference or anchor, and not both")
        return self


class Usage(BaseModel):
    """What an answer cost."""

    judgements: int = Field(0, description="Judgements that the judge wrote")
    prompt_tokens: int = Field(0, description="Tokens of all prompts")
    completion_tokens: int = Field(0, description="Tokens of all judgements, with their end-of-sequence tokens")


class OneJudgement(BaseModel):
    """What the judge wrote, once."""

    sample: int = Field(0, description="Which of the votes in this order, from 0")
    text: str = Field(description="All that the judge wrote. Its A and B are the responses as shown")
    sections: dict[str, str] = Field(description="The text by tag, also with A and B as shown: type, rubric, eval, ...")
    ratings: list[float] | None = Field(None, description="Of the responses as sent, where the judge gave any")
    prompt_tokens: int = Field(description="Tokens of the prompt")
    completion_tokens: int = Field(description="With the end-of-sequence token")
    truncated: bool = Field(description="Whether max_tokens cut the judgement off")
    version: int = Field(description="Weight version that wrote it")


class OrderJudgement(OneJudgement):
    """One judgement of a pair in one order."""

    order: Order = Field(description="`ab` showed response_a first, as the judge's A; `ba` showed response_b as A")
    verdict: Verdict = Field(description="On response_a and response_b as sent; null where the text holds none")


class ListJudgement(OneJudgement):
    """One judgement of all responses at once."""

    shown: list[int] = Field(description="Index of the response shown as A, as B, ...")


class Served(BaseModel):
    """Who judged."""

    model: str = Field(description="Name of the judge")
    version: int = Field(description="Weight version that judged; the newest, where a swap came in between")
    format: str = Field(description="Prompt format that the judge was asked in")
    usage: Usage = Field(description="What it cost")


class PairResult(BaseModel):
    """What came of comparing two responses."""

    verdict: Verdict = Field(
        description="`a`, `b` or `tie`, on the responses as sent. null is no verdict: the judge gave none, "
        "or its verdicts in the two orders differ"
    )
    confidence: float = Field(description="Share of all judgements that the verdict has, 0 to 1; 0 without verdict")
    consistent: bool | None = Field(
        description="Whether both orders came to the same verdict; null where one of them, or both, came to none"
    )


class JudgeResponse(PairResult, Served):
    """The verdict, and the judgements that it comes from."""

    reasoning: str = Field(description="The text of the first judgement that gave the verdict; else of the first")
    sections: dict[str, str] = Field(description="The sections of that judgement")
    order: Order = Field(description="The order of that judgement: with `ba`, its A is response_b")
    judgements: list[OrderJudgement] = Field(description="Every one, `ab` before `ba`")


class Comparison(PairResult):
    """Two of the ranked responses, compared."""

    a: int = Field(description="Index of the response that the verdict calls `a`")
    b: int = Field(description="Index of the response that the verdict calls `b`")
    identical: bool = Field(False, description="Whether the two are the same text: a tie without a judgement")
    judgements: list[OrderJudgement] = Field(description="Every one, `ab` before `ba`; empty unless asked for")


class RankResponse(Served):
    """The ranking, and the comparisons that it comes from."""

    scores: list[float] = Field(description="One for each response as sent, in the range of `scale`")
    ratings: list[float] = Field(description="The same before scaling")
    ranking: list[list[int]] = Field(description="Indices from best to worst; equal ones stand together")
    best: int = Field(description="The first of the best")
    method: Method = Field(description="Which responses met")
    aggregation: Literal["win_rate", "elo", "bradley_terry", "rounds", "mean_rating"] = Field(
        description="What the ratings are"
    )
    comparisons: list[Comparison] = Field(description="Every one, in the order in which they were judged")
    listings: list[ListJudgement] = Field(description="The judgements of a listwise ranking")
    no_verdict: int = Field(description="Comparisons (listwise: judgements) without a verdict; they count for nobody")


class ScoreResponse(Served):
    """The score of one response, and what it means."""

    score: float = Field(description="In the range of `scale`")
    basis: Literal["reference", "anchor", "rating"] = Field(
        description="What it is: the share of judgements won against the reference or the anchor, a tie or a missing "
        "verdict being half; or the mean rating in the pointwise format"
    )
    neutral: bool = Field(description="Whether the middle of the range was given because no judgement said anything")
    judgements: list[OneJudgement] = Field(description="What the score comes from; empty for two identical responses")


class Version(JudgeCard):
    """What is being served, and what may be asked of it."""

    model: str
    limits: dict[str, int | float] = Field(description="Most responses, tokens, bytes and requests at once")
    refused: str | None = Field(None, description="Why the last checkpoint that was to be swapped in is not served")


class Health(BaseModel):
    """That the engine is alive, and what it is busy with."""

    running: int = Field(description="Judgements in progress")


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str
