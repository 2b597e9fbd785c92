"""Text cleaning: one plain alphabet, sentences kept, code and tables dropped, no paragraph twice."""

import hashlib
import re
import unicodedata

PLAIN = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": "-",
        "\u2212": "-",
        "\u2010": "-",
        "\u2011": "-",
        "\u2026": "...",
        "\u00a0": " ",
        "\u2022": "-",
        "\u00b7": "-",
        "\u00ad": "",
        "\u200b": "",
        "\u00b6": "",
        "\u00b4": "'",
        "\u2192": "->",
        "\u27a4": "->",
        "\ufeff": "",
    }
)
BOX_DRAWING = ("\u2500", "\u259f")


def plain(text: str) -> str:
    """Typographic characters become ASCII ones, and every run of white space one space."""
    text = unicodedata.normalize("NFC", text).translate(PLAIN)
    return re.sub(r"[ \t\r\f\v\n]+", " ", text).strip()


def is_prose(paragraph: str, least: int = 40) -> bool:
    """Whether this is sentences: not code, a table, a menu or another alphabet."""
    if len(paragraph) < least:
        return False
    if any(BOX_DRAWING[0] <= c <= BOX_DRAWING[1] for c in paragraph):
        return False
    letters = sum(c.isalpha() or c == " " for c in paragraph)
    ascii_letters = sum(c.isascii() for c in paragraph)
    return letters / len(paragraph) > 0.78 and ascii_letters / len(paragraph) > 0.97 and paragraph.count(" ") >= 5


def sentence(text: str) -> str:
    """The text with a full stop, where it has no end of its own."""
    text = text.strip()
    return text if not text or text[-1] in ".!?:" else text + "."


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def lower_first(text: str) -> str:
    """Lower-case the first letter of a phrase unless it looks like a name."""
    word = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if word[1:].islower() or word in ("A", "I") else text


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, ending at a sentence where there is one."""
    if text.endswith(":") and ". " in text:
        text = text[: text.rfind(". ") + 1]
    if len(text) <= limit:
        return text
    head = text[:limit]
    end = max(head.rfind(". "), head.rfind("! "), head.rfind("? "))
    return head[: end + 1] if end > 40 else head[: head.rfind(" ")] + "..."


class Deduplicator:
    """Remembers every paragraph by a hash of its letters and digits."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def fresh(self, paragraph: str) -> bool:
        """Whether this paragraph is seen for the first time."""
        letters = re.sub(r"[^a-z0-9]", "", paragraph.lower())
        digest = hashlib.blake2b(letters.encode(), digest_size=8).digest()
        if digest in self._seen:
            return False
        self._seen.add(digest)
        return True


def held_out(key: str) -> bool:
    """Whether all documents of this key belong to the held-out one in a hundred."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % 100 == 0
