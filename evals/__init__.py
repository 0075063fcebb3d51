"""What a judgement is: pairs, prompts, verdicts, rewards and scores. Pure Python: no Ray, no torch, no vLLM."""
