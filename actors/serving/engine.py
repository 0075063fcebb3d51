"""The engine of one replica: a vLLM AsyncLLM with the judge, sampled concurrently, whose weights can be swapped."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers.decoders import DecodeStream

from actors.card import JudgeCard
from actors.config import RolloutConfig
from actors.records import Ids
from actors.rollout import engine_arguments
from actors.serving.pace import Pace
from actors.serving.swap import SwapError, checked_checkpoint
from actors.tokens import PromptEncoder
from evals.pairs import Message

_LONG = 20_000
"""Characters from which on a prompt is encoded beside the event loop."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How one judgement is sampled; temperature 0 is greedy. The same seed repeats it."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What the judge wrote. `truncated` is whether `max_tokens` cut it off; `version` are the weights that wrote it."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    truncated: bool
    version: int


class EngineStoppedError(RuntimeError):
    """The engine's process has died; the replica is about to be replaced."""

    def __init__(self) -> None:
        super().__init__("the engine has stopped and is being replaced; try again in a minute")


class JudgeEngine:
    """The engine, and the version of the weights in it.

    A swap waits for what is being sampled and holds back what comes meanwhile, so that every judgement is written by
    one version from its first token to its last.
    """

    def __init__(self, model: str, card: JudgeCard, rollout: RolloutConfig, device: str):
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.card = card
        self.encoder = PromptEncoder(model)
        self.refused: str | None = None
        self._folder = Path(model)
        self._loaded = self._folder
        arguments = engine_arguments(model, card.dtype, rollout, device)
        self._llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments, worker_extension_cls="actors.reload.CheckpointLoader")
        )
        self._open = asyncio.Event()
        self._open.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._numbers = itertools.count()
        self._pace = Pace(rollout.max_num_seqs)
        self._swapping = asyncio.Lock()

    @property
    def version(self) -> int:
        """Weight version of judgements that begin now."""
        return self.card.version

    @property
    def running(self) -> int:
        """Judgements in progress."""
        return self._pace.running

    @property
    def wait_s(self) -> float:
        """See `Pace.wait_s`."""
        return self._pace.wait_s

    @property
    def stopped(self) -> bool:
        """Whether the engine's process has died."""
        return self._llm.errored

    async def check_health(self) -> None:
        """Raises where the engine's process has died."""
        await self._llm.check_health()

    async def encode(self, messages: Sequence[Message]) -> Ids:
        """Ids of a prompt, see `PromptEncoder.encode_prompt`; a long one does not hold up the event loop."""
        if sum(len(message["content"]) for message in messages) > _LONG:
            return await asyncio.to_thread(self.encoder.encode_prompt, messages)
        return self.encoder.encode_prompt(messages)

    async def complete(self, ids: Ids, decoding: Decoding, on_text: Callable[[str], None] | None = None) -> Completion:
        """Sample one text; `on_text` gets each new piece of it. Cancelled, it ends the engine's work on it.

        Raises EngineStoppedError where the engine's process has died.
        """
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        params = SamplingParams(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            max_tokens=decoding.max_tokens,
            seed=decoding.seed if decoding.temperature else None,
            stop_token_ids=[self.encoder.eos],
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if on_text else RequestOutputKind.FINAL_ONLY,
        )
        sampled: list[int] = []
        say = self._saying(on_text) if on_text else None
        async with self._sampling():
            version = self.version
            try:
                outputs = self._llm.generate(tokens_input(ids.tolist()), params, f"judgement-{next(self._numbers)}")
                async for output in outputs:
                    (completion,) = output.outputs
                    sampled += completion.token_ids
                    if say:
                        say(completion.token_ids)
            except EngineDeadError as error:
                raise EngineStoppedError from error
        text = self.encoder.decode(np.array(sampled, np.int32))
        return Completion(text, len(ids), len(sampled), completion.finish_reason == "length", version)

    def _saying(self, on_text: Callable[[str], None]) -> Callable[[Sequence[int]], None]:
        """Takes the ids of a text as they come, and gives `on_text` what they add to it."""
        stream, tokenizer = DecodeStream(skip_special_tokens=True), self.encoder.tokenizer.backend_tokenizer

        def say(ids: Sequence[int]) -> None:
            pieces = (stream.step(tokenizer, id_) for id_ in ids)
            on_text("".join(piece for piece in pieces if piece))

        return say

    @asynccontextmanager
    async def _sampling(self) -> AsyncIterator[None]:
        await self._open.wait()
        self._pace.begin()
        self._idle.clear()
        try:
            yield
        finally:
            self._pace.end()
            if not self._pace.running:
                self._idle.set()

    async def swap(self, folder: Path, version: int | None) -> None:
        """Serve the checkpoint in `folder` from now on, as `version` or as its card says.

        Raises SwapError, also kept in `refused`, where it cannot be served; the weights are then what they were.
        """
        async with self._swapping:
            try:
                card = await asyncio.to_thread(checked_checkpoint, folder, self._folder, self.card)
                self._open.clear()
                await self._idle.wait()
                await self._load(folder)
                self.card = card if version is None else card.model_copy(update={"version": version})
                self._loaded, self.refused = folder, None
            except SwapError as error:
                self.refused = str(error)
                raise
            finally:
                self._open.set()

    async def _load(self, folder: Path) -> None:
        try:
            await self._llm.collective_rpc("load_checkpoint", args=(str(folder),))
        except Exception as error:
            await self._llm.collective_rpc("load_checkpoint", args=(str(self._loaded),))
            raise SwapError(f"{folder}: the engine could not load it ({error})") from error
        finally:
            await self._llm.reset_prefix_cache()
