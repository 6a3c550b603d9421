"""What is kept. Each rule is a pure function that says whether a picture, or one text of it, stays.

Rules are tried in the order of this file: of a picture first, then of each text, then among the texts that are left.
A text is dropped by the first rule that it breaks. A record is dropped by the first rule after which it is without
picture or without text, so that each dropped record counts for exactly one rule.

Thresholds are keyword arguments, `config.rules.<rule>`; a rule that the config does not name is not applied. The rules
of ALIGN are those of its section 3; those of LAIT (ImageBERT, section 3) have no published thresholds.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from align_jax.config import check_keys
from align_jax.types import AlignError


class Image(NamedTuple):
    """What the rules know of a picture."""

    reason: str  # why it cannot be read, or ""
    width: int  # pixels, of the raw picture
    height: int
    scores: Mapping[str, float]  # name in `config.measures` -> value
    texts: int  # distinct texts that this picture has over all records
    evaluation_bits: int  # of 64, by which its perceptual hash differs from the nearest evaluation picture
    evaluation_cosine: float  # of its embedding with the nearest evaluation picture of a common bucket


class Text(NamedTuple):
    """What the rules know of one text of a picture."""

    words: tuple[str, ...]  # unigrams, ngrams.py
    language: str  # as the column or function of `config.languages` says
    rare: int  # unigrams and bigrams of it that are not among the frequent ones of the raw data
    unknown: float  # share of its unigrams that are not
    images: int  # distinct pictures that have this text over all records
    score: float  # cosine of its embedding with the picture's


def shorter_side(image: Image, *, above: int) -> bool:
    """The shorter side is more than `above` pixels (ALIGN: 200; LAIT: width and height, 300)."""
    return min(image.width, image.height) > above


def aspect(image: Image, *, below: float) -> bool:
    """The longer side is less than `below` times the shorter (ALIGN: 3)."""
    return max(image.width, image.height) < below * min(image.width, image.height)


def score(image: Image, *, name: str, above: float = float("-inf"), below: float = float("inf")) -> bool:
    """What a classifier says of it lies between the two: unsafe, non-photographic (both papers). NaN lies nowhere."""
    return above < image.scores[name] < below


def texts_per_image(image: Image, *, at_most: int) -> bool:
    """The picture comes with at most so many texts (ALIGN: 1000): others are icons and logos."""
    return image.texts <= at_most


def evaluation_pictures(image: Image, *, bits: int) -> bool:
    """No evaluation picture is the same within `bits` of the perceptual hash."""
    return image.evaluation_bits > bits


def evaluation_embeddings(image: Image, *, cosine: float) -> bool:
    """No evaluation picture's embedding is nearer than `cosine` (ALIGN: 0.975)."""
    return image.evaluation_cosine <= cosine


def language(text: Text, *, keep: Sequence[str]) -> bool:
    """The text is in one of the languages (LAIT: English)."""
    return text.language in keep


def word_count(text: Text, *, at_least: int, at_most: int) -> bool:
    """So many unigrams, both included (ALIGN: 3..20)."""
    return at_least <= len(text.words) <= at_most


def banned_words(text: Text, *, words: Sequence[str]) -> bool:
    """None of its unigrams is among `words` (LAIT: spam and pornography)."""
    return not set(text.words) & set(words)


def rare_ngrams(text: Text, *, at_most: int) -> bool:
    """So many of its unigrams and bigrams are outside the `config.counting.top` most frequent (ALIGN: none)."""
    return text.rare <= at_most


def unknown_words(text: Text, *, below: float) -> bool:
    """The share of its unigrams outside the most frequent is less than `below` (LAIT: high-OOV sentences)."""
    return text.unknown < below


def shared_text(text: Text, *, at_most: int) -> bool:
    """At most so many pictures of the raw data have it (ALIGN: 10): others are boilerplate."""
    return text.images <= at_most


def semantic_score(text: Text, *, above: float) -> bool:
    """The checkpoint's cosine of picture and text is more than `above` (LAIT: a weak model's relevance)."""
    return text.score > above


IMAGE_RULES = (shorter_side, aspect, texts_per_image, evaluation_pictures, evaluation_embeddings)
TEXT_RULES = (language, word_count, banned_words, rare_ngrams, unknown_words, shared_text, semantic_score)
SECTIONS = (*(rule.__name__ for rule in (*IMAGE_RULES, *TEXT_RULES)), "scores", "best_text", "shared_description")


class Verdict(NamedTuple):
    """`rule` that dropped the record, or ""; for each of its texts the rule that dropped that, or ""."""

    rule: str
    texts: tuple[str, ...]


class Rules:
    """The rules that a config names. `order` lists all names, also of what always holds."""

    def __init__(self, sections: Mapping[str, Any], measures: Sequence[str]):
        """`sections`: rule -> thresholds, `config.rules`; `measures`: the scores that there are.

        scores: {measure: {"above": .., "below": ..}}, each a rule by the name of its measure. best_text: {}, of several
        texts only the one with the best score stays (LAIT). shared_description: {"at_most": 10}, last of all: where
        more pictures would be kept with the same text, all those pairs go (LAIT).
        """
        check_keys(sections, SECTIONS, (), where="config.rules")
        self.sections = sections
        check_keys(sections.get("scores", {}), measures, (), where="config.rules.scores")
        self._image: list[tuple[str, Callable[[Image], bool]]] = []
        for rule in IMAGE_RULES:
            if rule.__name__ in sections:
                self._image.append((rule.__name__, _bound(rule, sections[rule.__name__], rule.__name__)))
            if rule is aspect:
                for name, options in sections.get("scores", {}).items():
                    limits = _bound(functools.partial(score, name=name), options, f"scores.{name}")
                    self._image.append((name, limits))
        self._text: list[tuple[str, Callable[[Text], bool]]] = [
            (rule.__name__, _bound(rule, sections[rule.__name__], rule.__name__))
            for rule in TEXT_RULES if rule.__name__ in sections
        ]  # fmt: skip
        self.best_text = "best_text" in sections
        check_keys(sections.get("best_text", {}), (), (), where="config.rules.best_text")
        last = sections.get("shared_description", {})
        if "shared_description" in sections:
            check_keys(last, ("at_most",), ("at_most",), where="config.rules.shared_description")
        names = [name for name, _ in (*self._image, *self._text)]
        if taken := {"unreadable", "empty_text", *SECTIONS} & set(sections.get("scores", {})):
            raise AlignError(f"config.rules.scores: expected names that no rule has, found {sorted(taken)}")
        last_rules = [name for name in ("best_text", "shared_description") if name in sections]
        first_text = len(self._image)
        self.order = ("unreadable", *names[:first_text], "empty_text", *names[first_text:], *last_rules)

    def threshold(self, rule: str, name: str) -> Any:
        """One threshold of a rule; None where the rule is not applied."""
        return self.sections[rule][name] if rule in self.sections else None

    def described(self) -> dict[str, dict[str, Any]]:
        """Rule -> its thresholds, for a report."""
        return {
            name: dict(self.sections.get(name) or self.sections.get("scores", {}).get(name, {})) for name in self.order
        }

    def judge(self, image: Image, texts: Sequence[Text]) -> Verdict:
        """By all rules but `shared_description`."""
        if image.reason:
            return _dropped("unreadable", texts)
        for name, stays in self._image:
            if not stays(image):
                return _dropped(name, texts)
        found = [self._first_broken(text) for text in texts]
        kept = [place for place, name in enumerate(found) if not name]
        if self.best_text and kept:
            best = max(kept, key=lambda place: texts[place].score)  # the first of equal ones
            found = ["best_text" if place in kept and place != best else name for place, name in enumerate(found)]
        return Verdict("" if kept else self._last(found), tuple(found))

    def judge_description(self, verdict: Verdict, images: Sequence[int]) -> Verdict:
        """`shared_description`, with the number of pictures that would be kept with each text."""
        at_most = self.threshold("shared_description", "at_most")
        if at_most is None or verdict.rule:
            return verdict
        found = tuple(
            name or ("shared_description" if count > at_most else "")
            for name, count in zip(verdict.texts, images, strict=True)
        )
        return Verdict("" if "" in found else "shared_description", found)

    def _first_broken(self, text: Text) -> str:
        if not text.words:
            return "empty_text"
        return next((name for name, stays in self._text if not stays(text)), "")

    def _last(self, broken: Sequence[str]) -> str:
        return max(broken, key=self.order.index, default="empty_text")


def _dropped(rule: str, texts: Sequence[Text]) -> Verdict:
    return Verdict(rule, (rule,) * len(texts))


def _bound(rule: Callable[..., bool], options: Mapping[str, Any], name: str) -> Callable[..., bool]:
    """`rule` with its thresholds, each a keyword-only parameter."""
    known = [p for p in inspect.signature(rule).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "name"]
    needed = [p.name for p in known if p.default is p.empty]
    check_keys(options, [p.name for p in known], needed, where=f"config.rules.{name}")
    return functools.partial(rule, **options)
