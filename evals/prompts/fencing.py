"""Text that is put into a prompt cannot pass for a part of the prompt.

A marker is what a template itself writes around the texts that it shows: headings, `[The End of ...]`, the name of a
speaker. Whoever wrote a text may have put one there, also with other case, spacing, line ends, invisible or look-alike
characters. It is then quoted, visibly and always in the same way; text without a marker stays as it is, byte for byte.
"""

# ruff: noqa: RUF001  (look-alikes are the point)
from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

QUOTE = "> "
"""Stands before a marker in a text that was put in; one in brackets gets parentheses instead."""

HOLE = "\0"
"""Stands in a template where text is put in."""

_LONG = 24
"""Letters and digits that make a line of a template so distinctive that it is quoted within a line too."""

_BRACKETED = re.compile(r"(\[[^\[\]]+\]|<+[^<>]+>+):?")

_LOOK_ALIKES = {
    **{"a": "аАαΑᎪᴀɑ", "b": "вВЬβΒᏴʙ", "c": "сСςᏟᴄ", "d": "ԁᎠᴅ", "e": "еЕεΕᎬᴇ", "f": "ҒꜰϜ", "g": "ԌɡɢᏀ"},
    **{"h": "һҺнНΗᎻʜհ", "i": "іІӀιΙıɪ", "j": "јЈᎫᴊ", "k": "кКκΚᏦᴋ", "l": "ӏʟᏞ", "m": "мМΜᎷᴍ", "n": "ηΝոɴп"},
    **{"o": "оОοΟσօᴏ", "p": "рРρΡᏢᴘ", "q": "ԛԚզ", "r": "гᎡʀ", "s": "ѕЅᏚꜱ", "t": "тТτΤᎢᴛ", "u": "υսᴜцμ"},
    **{"v": "νѵѴᏙᴠ", "w": "ԝԜωᎳᴡ", "x": "хХχΧ", "y": "уУүҮγΥʏ", "z": "ΖᏃᴢζ", "'": "‘’‛ʼʹ′`´", '"': "“”„‟″"},
    **{":": "꞉∶ː։׃", "-": "‐‒–—―−", "[": "【〔⟦⁅❲〖", "]": "】〕⟧⁆❳〗", "<": "‹〈⟨", ">": "›〉⟩", "#": "⌗♯"},
    **{"*": "∗⁎✱", "/": "⁄∕", "(": "❨", ")": "❩"},
}
_LOOKS = {ord(other): latin for latin, others in _LOOK_ALIKES.items() for other in others}

_BLANK = "\u115f\u1160\u2800\u3164"  # letters by their category, and nothing to be seen
_UNSEEN = {"Cc", "Cf", "Me", "Mn", "Zs"}
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_MOST_KEPT = 1 << 17


class _Folding(dict[int, str]):
    """What each character is compared as; found once each, and kept for so many of them."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character in _LINE_ENDS:
            folded = "\n"
        else:
            bare = unicodedata.normalize("NFKD", character.translate(_LOOKS)).translate(_LOOKS)
            seen = (one for one in bare if unicodedata.category(one) not in _UNSEEN and one not in _BLANK)
            folded = "".join(seen).casefold()
        if len(self) < _MOST_KEPT:
            self[code] = folded
        return folded


_FOLDING = _Folding()
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_ASCII = bytes(ord(_FOLDING[code] or "\0") if code < 128 else code for code in range(256))
_UNSEEN_ASCII = bytes(code for code in range(128) if not _FOLDING[code])


def folded(text: str) -> str:
    """What a text is compared as: a fold of each character by itself, with every kind of line end as a newline.

    Gone are case, compatibility forms, accents, look-alikes of Latin letters, white space but for line ends, and what
    cannot be seen.
    """
    if not text.isascii():
        text = _NOT_ASCII.sub(lambda run: run[0].translate(_FOLDING), text)
    return text.encode().translate(_ASCII, _UNSEEN_ASCII).decode()


def encodable(text: str) -> str:
    """The text, with a replacement character for each half of a surrogate pair: no tokenizer takes those."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


@dataclass(frozen=True)
class Fence:
    """The markers of a prompt, folded: `rows` with the line ends around them, `inside` without any."""

    rows: tuple[str, ...]
    inside: tuple[str, ...]

    @classmethod
    def around(cls, *templates: str) -> Fence:
        """The markers of templates that have HOLE where text is put in.

        A line without holes is a marker as a whole line, and words before the first hole of one at the start of a
        line. What is in brackets, or long, is one anywhere; other words behind a hole are none.
        """
        rows: dict[str, None] = {}
        inside: dict[str, None] = {}
        for line in "\n".join(templates).split("\n"):
            pieces = line.split(HOLE)
            for place, piece in enumerate(pieces):
                marker = folded(piece).replace("\n", "")
                words = sum(map(str.isalnum, marker))
                if bracketed := _BRACKETED.fullmatch(piece.strip()):
                    inside[folded(bracketed[1])] = None
                elif words >= _LONG:
                    inside[marker] = None
                elif marker and len(pieces) == 1:
                    rows[f"\n{marker}\n"] = None
                elif words and place == 0:
                    rows[f"\n{marker}"] = None
        return cls(tuple(rows), tuple(inside))

    def __call__(self, text: str) -> str:
        """The text as it may be put in: its markers quoted."""
        text = encodable(text)
        if not self.rows and not self.inside:
            return text
        while edits := self._edits(text):
            parts: list[str] = []
            at = 0
            for place in sorted(edits):
                parts += text[at:place], edits[place]
                at = place + 1
            text = "".join((*parts, text[at:]))
        return text

    def _edits(self, text: str) -> dict[int, str]:
        """What comes in the place of which characters, by their index."""
        plain = folded(text)
        lines, joined = f"\n{plain}\n", plain.replace("\n", "")
        rows = [marker for marker in self.rows if marker in lines]
        inside = [marker for marker in self.inside if marker in joined]
        if not rows and not inside:
            return {}
        edits: dict[int, str] = {}
        came_from = [index for index, character in enumerate(text) for _ in _FOLDING[ord(character)]]
        for marker in rows:
            for start in _found(lines, marker, overlapping=True):
                index = came_from[start]  # of the character behind the line end: `lines` has one more before the text
                edits[index] = QUOTE + text[index]
        came_from = [came_from[index] for index, character in enumerate(plain) if character != "\n"]
        for marker in inside:
            for start in _found(joined, marker, overlapping=False):
                first, last = came_from[start], came_from[start + len(marker) - 1]
                if marker[0] in "[<":
                    edits |= {first: "(", last: ")"}
                elif joined[start - 1 : start] != QUOTE.strip():
                    edits[first] = QUOTE + text[first]
        return edits


def _found(text: str, marker: str, overlapping: bool) -> list[int]:
    """Where a marker starts. Markers that are lines share the line end between them: those overlap."""
    starts: list[int] = []
    step = 1 if overlapping else len(marker)
    start = text.find(marker)
    while start >= 0:
        starts.append(start)
        start = text.find(marker, start + step)
    return starts
