"""Pure: a history and a target -> context and question. The wording is TALLRec's (Bao et al. 2023), byte for byte.

The context ends where the history ends, so that every candidate of a request shares it. The question starts with the same
words whatever the target: they are the invocation sequence of an activated LoRA.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from service.records import Item, Prompt, RatedItem, Sample

TEMPLATE_VERSION = "tallrec-1"
ANSWERS = ("Yes", "No")
RESPONSE_HEADER = "\n\n### Response:\n"

_OPENS_A_TITLE = re.compile(r'(,\s*)"')
_LOOKS_SPECIAL = re.compile(
    r"<[^<>\s]+>|\[/?(?:CLS|SEP|PAD|UNK|MASK|BOS|EOS|INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG|gMASK|sMASK)\]"
)

_INSTRUCTION = (
    "Given the user's preference and unpreference, identify whether the user will like the target {noun} "
    'by answering "Yes." or "No.".'
)


def instruction(item_type: str) -> str:
    return _INSTRUCTION.format(noun=item_type)


def history_text(history: Iterable[RatedItem]) -> str:
    """The two preference lines, with the line feed that ends the second."""
    opinions = list(history)
    liked = ", ".join(_mention(o.item) for o in opinions if o.liked)
    disliked = ", ".join(_mention(o.item) for o in opinions if not o.liked)
    return f"User Preference: {liked}\nUser Unpreference: {disliked}\n"


def invocation_text(item_type: str) -> str:
    """The words that every question opens with."""
    return f"Whether the user will like the target {item_type}"


def target_text(target: Item, item_type: str) -> str:
    """The question as TALLRec words it; an author's name goes inside the quotes."""
    named = _mention(target) if target.author else _one_line(target.title)
    return f'{invocation_text(item_type)} "{named}"?'


def context_text(history: Iterable[RatedItem], item_type: str) -> str:
    return f"### Instruction:\n{instruction(item_type)}\n\n### Input:\n{history_text(history)}"


def question_text(target: Item, item_type: str) -> str:
    return target_text(target, item_type) + RESPONSE_HEADER


def item_text(item: Item) -> str:
    """What the frozen model reads to place an item near others: its public facts."""
    facts = ", ".join(_one_line(genre) for genre in item.genres)
    return f"{_mention(item)} is about: {facts}"


def prompt(sample: Sample, item_type: str) -> Prompt:
    return Prompt(context_text(sample.history, item_type), question_text(sample.target, item_type))


def may_hold_special_tokens(text: str) -> bool:
    """Whether a tokenizer might know a part of the text as a token of its own: a mark of an end, of a turn, of padding."""
    return ("<" in text or "[" in text) and _LOOKS_SPECIAL.search(text) is not None


def opens_a_title(text: str) -> bool:
    """Whether a quotation mark in the text stands where, in a prompt, the next title begins."""
    return '"' in text and _OPENS_A_TITLE.search(_printable(text)) is not None


def _mention(item: Item) -> str:
    quoted = f'"{_one_line(item.title)}"'
    return f"{quoted} written by {_one_line(item.author)}" if item.author else quoted


def _one_line(text: str) -> str:
    line = _printable(text)
    # Behind a comma a quotation mark opens the next title. TALLRec's released titles hold none there.
    return _OPENS_A_TITLE.sub(r"\1'", line) if '"' in line else line


def _printable(text: str) -> str:
    # A line feed inside a title would let a title write its own prompt lines.
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
