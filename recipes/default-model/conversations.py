"""Questions and answers made by rule from the same text as the raw documents.

All randomness comes from the caller's generator, in a fixed order, so one seed gives one corpus.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from cleaning import capital, cut, is_prose, lower_first, plain, sentence
from sources import ManPage, PackageDescription, Synset

Messages = list[dict[str, str]]

SYSTEM = [
    "You are a helpful assistant.",
    "You are a helpful, concise assistant.",
    "Answer briefly.",
    "You answer questions about Debian, Unix and English words.",
]
CAPITAL_OF = re.compile(r"the capital (?:and [a-z ]+ )*of ((?:the )?[A-Z][A-Za-z]+(?: [A-Z][a-z]+)?)\b")
COUNTED = re.compile(r"(a|an|the|any|one|someone|something|each|either)\b")
WHAT_IS_IN_SECTION = {
    "1": "command",
    "8": "command",
    "2": "system call",
    "5": "file",
    "4": "device",
    "7": "topic",
}


def chat(rng: random.Random, *turns: str) -> Messages:
    """Turns of user and assistant, with a system message in front now and then."""
    messages = []
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": rng.choice(SYSTEM)})
    for i, turn in enumerate(turns):
        messages.append({"role": "assistant" if i % 2 else "user", "content": turn})
    return messages


def article(word: str) -> str:
    return "an" if word[:1].lower() in "aeiou" else "a"


def share_words(short: str, body: str) -> bool:
    """Whether a short description has at least two longer words of the text."""
    words = set(re.findall(r"[a-z]{4,}", body.lower()))
    return len(words & set(re.findall(r"[a-z]{4,}", short.lower()))) >= 2


def package_chats(rng: random.Random, package: PackageDescription) -> Iterator[Messages]:
    name = package.name
    prose = [p for p in package.paragraphs if is_prose(p) and not p.startswith("- ")]
    body = cut(prose[0], 420) if prose else ""
    short = sentence(package.short)
    phrase = lower_first(short)
    lead = rng.choice(
        [
            f"{name} is a Debian package: {phrase}",
            f"The package {name} provides: {phrase}",
            f"{name}: {phrase}",
            capital(short),
        ]
    )
    ask = rng.choice(
        [
            f"What does the package {name} do?",
            f"What is the package {name}?",
            f"What is {name}?",
            f"Describe the Debian package {name}.",
            f"What is {name} for?",
            f"Tell me about {name}.",
            f"what does the {name} package do",
            f"Explain what the package {name} contains.",
        ]
    )
    form = rng.random()
    if body and form < 0.62:
        yield chat(rng, ask, f"{lead} {body}" if rng.random() < 0.7 else body)
    elif body and form < 0.74:
        more = ["Tell me more.", "Can you explain more?", "More details, please.", "Go on."]
        yield chat(rng, ask, lead, rng.choice(more), body)
    elif len(body) > 150 and share_words(package.short, body):
        request = ["Summarise: ", "Summarize: ", "Summarise this text: ", "Summarise in one sentence: "]
        yield chat(rng, rng.choice(request) + body, rng.choice([short, capital(short), f"{name}: {phrase}"]))
    else:
        yield chat(rng, ask, lead)


def word_chats(rng: random.Random, synset: Synset) -> Iterator[Messages]:
    """A definition of the synset's most typical word, and capitals where the gloss names one."""
    words = [w for w in synset.words if w.lower() in synset.first]
    if not words or len(synset.definition) < 12:
        return
    word, noun = words[0], synset.pos == "noun"
    others = [w for w in synset.words if w != word]
    tail = ""
    if others and rng.random() < 0.4:
        tail += f" It is also called {others[0]}." if noun else f" A synonym is {others[0]}."
    if synset.examples and not noun and rng.random() < 0.6:
        tail += f' For example: "{synset.examples[0]}".'
    if not noun:
        yield other_word_chat(rng, word, synset, tail)
    elif word[:1].isupper():
        yield name_chat(rng, word, synset.definition, tail)
    else:
        yield noun_chat(rng, word, synset, tail)
    match = CAPITAL_OF.match(synset.definition)
    if match and synset.is_instance and word[:1].isupper():
        place = match[1]
        for ask in (
            f"What is the capital of {place}?",
            f"what is the capital of {place}",
            f"Which city is the capital of {place}?",
        ):
            yield chat(
                rng, ask, rng.choice([f"The capital of {place} is {word}.", f"{word} is the capital of {place}."])
            )


def is_counted(definition: str) -> bool:
    return COUNTED.match(re.sub(r"^\([^)]*\) ?", "", definition)) is not None


def name_chat(rng: random.Random, name: str, definition: str, tail: str) -> Messages:
    person = re.search(r"\(\d{4}-", definition) is not None
    ask = rng.choice(
        [f"{'Who' if person else 'What'} is {name}?", f"Tell me about {name}.", f"What do you know about {name}?"]
    )
    thing = f"{article(definition)} {definition}" if person and not is_counted(definition) else definition
    return chat(rng, ask, sentence(f"{name} {'was' if person else 'is'} {thing}") + tail)


def noun_chat(rng: random.Random, word: str, synset: Synset, tail: str) -> Messages:
    definition = synset.definition
    with_article = f"{article(word)} {word}" if is_counted(definition) else word
    ask = rng.choice(
        [
            f"What is {with_article}?",
            f"Define {word}.",
            f"What does the word {word} mean?",
            f"What is {word}?",
            f"Define the word '{word}'.",
            f"what is {with_article}",
            f"Explain the word {word}.",
            f"What is the meaning of {word}?",
        ]
    )
    kind = f" It is a kind of {synset.kind}." if synset.kind and rng.random() < 0.35 else ""
    lead = rng.choice(
        [
            f"{capital(with_article)} is {definition}",
            f"{capital(word)}: {definition}",
            f"{capital(word)} means {definition}",
            f"{capital(with_article)} is {definition}",  # twice as likely as the others
        ]
    )
    return chat(rng, ask, sentence(lead) + kind + tail)


def other_word_chat(rng: random.Random, word: str, synset: Synset, tail: str) -> Messages:
    ask = rng.choice(
        [
            f"Define {word}.",
            f"What does {word} mean?",
            f"What does the {synset.pos} {word} mean?",
            f"Define the word '{word}'.",
            f"What is the meaning of {word}?",
        ]
    )
    verb = synset.pos == "verb"
    lead = f"To {word} means to {synset.definition}" if verb else f"{capital(word)} means {synset.definition}"
    return chat(rng, ask, sentence(lead) + tail)


def man_chats(rng: random.Random, page: ManPage) -> Iterator[Messages]:
    if len(page.short) < 12:
        return
    name = page.name
    description = next((lines for heading, lines in page.parts if heading == "DESCRIPTION"), [])
    body = cut(next((plain(line) for line in description if is_prose(plain(line), 60)), ""), 420)
    phrase = sentence(capital(page.short))
    library = "Perl module" if "::" in name or page.package == "perl-doc" else "C function"
    what = WHAT_IS_IN_SECTION.get(page.section[0], library)
    ask = rng.choice(
        [
            f"What does the {what} {name} do?",
            f"What is {name}?",
            f"What is {name} used for?",
            f"Explain the {what} {name}.",
            f"Tell me about the {what} {name}.",
        ]
    )
    if what == "command" and rng.random() < 0.3:
        ask = rng.choice([f"How do I use {name}?", f"what does {name} do", f"When would I use the {name} command?"])
    lead = f"{name}: {lower_first(sentence(page.short))}"
    yield chat(rng, ask, rng.choice([f"{lead} {body}".strip(), f"{phrase} {body}".strip(), body or phrase]))
    if body:
        yield chat(rng, ask, lead, rng.choice(["Tell me more.", "More details, please.", "Explain further."]), body)
        if len(body) > 150 and share_words(page.short, body):
            yield chat(rng, rng.choice(["Summarise: ", "Summarise in one sentence: ", "Summarize: "]) + body, phrase)


def identity_chats(path: Path) -> Iterator[Messages]:
    """Every pairing of question and answer of a hand-written group."""
    for group in json.loads(path.read_text(encoding="utf-8")):
        for question in group["ask"]:
            for answer in group["answer"]:
                yield [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
