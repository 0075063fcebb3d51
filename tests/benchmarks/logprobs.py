"""Memory that log-probabilities take at a vocabulary of 152 k, against one float32 copy of the logits.

Forward and backward of the model's head on a micro-batch of 2,048 tokens: the peak of the process above what hidden
states, head and their gradients take, which no way of computing could do without.
"""

from __future__ import annotations

import threading
import time

from measuring import Bench, Goal, Side, TakeTurn

GOALS = (Goal("logprob_memory", "peak of log-probabilities against one fp32 copy of the logits", "MiB", "<=", 0.25),)

TOKENS, VOCABULARY, HIDDEN = 2048, 152_064, 128


def measure(bench: Bench) -> None:
    """Each repetition in a process of its own, so that no memory is there already."""
    if bench.wanted("logprob_memory"):
        for _ in range(bench.repeats):
            with bench.attempt("logprob_memory"), Side(bench, "logprobs", peak) as side:
                found = side.turn()
                bench.add("logprob_memory", found["peak"], TOKENS * VOCABULARY * 4 / 2**20, **found)


def peak(take_turn: TakeTurn) -> None:
    """The largest resident size during forward and backward, over what was there before and stays."""
    import psutil
    import torch

    from actors.scoring import TokenLogProbs

    torch.set_num_threads(2)
    request = take_turn()
    while request:
        hidden = torch.randn(TOKENS, HIDDEN, requires_grad=True)
        weight = torch.randn(VOCABULARY, HIDDEN, requires_grad=True)
        targets = torch.randint(VOCABULARY, (TOKENS,))
        hidden.grad, weight.grad = torch.ones_like(hidden), torch.ones_like(weight)  # gradients add to what is there
        process, highest, done = psutil.Process(), [0], threading.Event()
        before = process.memory_info().rss

        def watch(process=process, highest=highest, done=done) -> None:
            while not done.is_set():
                highest[0] = max(highest[0], process.memory_info().rss)
                time.sleep(0.001)

        watcher = threading.Thread(target=watch)
        watcher.start()
        log_probs, _ = TokenLogProbs.apply(hidden, weight, None, targets, 1.0)
        log_probs.sum().backward()
        done.set()
        watcher.join()
        request = take_turn({"peak": (highest[0] - before) / 2**20})
