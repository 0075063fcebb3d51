"""Prompt formats: how a pair is shown to a judge, and how the judge's text becomes a verdict again.

A format renders a pair in either order and parses what the judge writes back to a canonical verdict and its sections.
Parsing sees the judge's own text and nothing else; it tolerates what real models emit and never guesses. `FORMATS` has
those with a name, `load_template` makes one of a user's file, and `prompt_format` takes either.
"""

from evals.prompts.base import Parsed, PromptFormat, Ruling
from evals.prompts.formats import FORMATS
from evals.prompts.reading import SECTIONS
from evals.prompts.rm_r1 import COMPACT, RM_R1
from evals.prompts.scores import LISTWISE, POINTWISE, Listwise, ParsedList, Pointwise, from_best
from evals.prompts.template import TemplateError, load_template, prompt_format

__all__ = [
    "COMPACT",
    "FORMATS",
    "LISTWISE",
    "POINTWISE",
    "RM_R1",
    "SECTIONS",
    "Listwise",
    "Parsed",
    "ParsedList",
    "Pointwise",
    "PromptFormat",
    "Ruling",
    "TemplateError",
    "from_best",
    "load_template",
    "prompt_format",
]
