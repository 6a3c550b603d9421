"""`config` of a curation: its sections, and what each becomes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from align_jax.config import Config, call, check_keys, plain
from align_jax.curation import measures
from align_jax.curation.candidates import Candidates
from align_jax.curation.embeddings import Search
from align_jax.curation.facts import Resize
from align_jax.curation.rules import Rules
from align_jax.curation.shards import Output
from align_jax.types import AlignError

SECTIONS = ("source", "columns", "texts", "image", "measures", "languages", "evaluation", "checkpoint", "rules",
            "counting", "search", "output", "records_per_shard", "threads", "examples")  # fmt: skip
FREE = ("config.threads",)  # what may differ between a run and its continuation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting:
    """How n-grams are counted."""

    top_ngrams: int  # unigrams and bigrams together that count as frequent (ALIGN: 100 million)
    buckets: int = 64  # parts into which tables are cut; more for more workers


@dataclasses.dataclass(frozen=True)
class Settings:
    """The config, checked."""

    source: Mapping[str, Any]
    evaluation: tuple[Mapping[str, Any], ...]  # sources whose pictures must not be trained on
    columns: str  # parquet with further columns of the records, or ""
    candidates: Candidates
    resize: Resize
    measures: Mapping[str, Mapping[str, str]]  # name -> {"column": ..} or {"function": "module:function"}
    languages: Mapping[str, str]  # the same for the language of a text; {} without
    checkpoint: str  # what `align_jax.load` takes, or ""
    rules: Rules
    counting: Counting
    search: Search
    output: Output
    records_per_shard: int  # raw records that are read at once: what a kill can cost
    threads: int
    examples: int  # pairs that the report shows for each rule

    @property
    def scored(self) -> bool:
        """Whether a rule reads the cosine of picture and text."""
        return bool({"semantic_score", "best_text"} & set(self.rules.order))

    @property
    def embedded(self) -> bool:
        """Whether a rule needs the checkpoint."""
        return self.scored or self.searched

    @property
    def searched(self) -> bool:
        """Whether near-duplicates are searched for by embedding."""
        return "evaluation_embeddings" in self.rules.order

    def chosen(self, kind: str) -> dict[str, str]:
        """Measure -> column, or function."""
        return {name: options[kind] for name, options in self.measures.items() if kind in options}


def of(config: Config) -> Settings:
    """AlignError for what the config cannot mean."""
    found = plain(config)
    check_keys(found, SECTIONS, SECTIONS, where="config")
    for key in ("records_per_shard", "threads"):
        if not isinstance(found[key], int) or found[key] < 1:
            raise AlignError(f"config.{key}: expected a whole number of at least 1, found {found[key]!r}")
    for name, options in found["measures"].items():
        _one_origin(options, f"config.measures.{name}")
    if found["languages"]:
        _one_origin(found["languages"], "config.languages")
    texts = {key: tuple(value) if isinstance(value, list) else value for key, value in found["texts"].items()}
    settings = Settings(
        source=found["source"], evaluation=tuple(found["evaluation"]), columns=found["columns"],
        candidates=call(Candidates, texts, where="config.texts"),
        resize=call(Resize, found["image"], where="config.image"), measures=found["measures"],
        languages=found["languages"], checkpoint=found["checkpoint"], 
        rules=Rules(found["rules"], list(found["measures"])),
        counting=call(Counting, found["counting"], where="config.counting"),
        search=call(Search, found["search"], where="config.search"),
        output=call(Output, found["output"], where="config.output"), records_per_shard=found["records_per_shard"],
        threads=found["threads"], examples=found["examples"],
    )  # fmt: skip
    _complete(settings)
    return settings


def _one_origin(options: Mapping[str, str], where: str) -> None:
    check_keys(options, ("column", "function"), (), where=where)
    if len(options) != 1:
        raise AlignError(f"{where}: expected either column or function, found {sorted(options)}")
    if "function" in options:
        measures.function(options["function"], where)


def _complete(settings: Settings) -> None:
    """Refuses rules whose facts nothing gives, before any work."""
    order = settings.rules.order
    if settings.embedded and not settings.checkpoint:
        raise AlignError(
            "config.checkpoint: semantic_score, best_text and evaluation_embeddings need a run or an export, "
            "found none; set --config.checkpoint or leave these rules out"
        )
    if "language" in order and not settings.languages:
        raise AlignError('config.languages: the rule language needs {"column": ..} or {"function": ..}, found neither')
    if settings.evaluation and not {"evaluation_pictures", "evaluation_embeddings"} & set(order):
        raise AlignError(
            "config.evaluation: expected the rule evaluation_pictures or evaluation_embeddings, which keeps these "
            "pictures out, found neither in config.rules"
        )
    if settings.searched and not settings.evaluation:
        raise AlignError("config.evaluation: the rule evaluation_embeddings needs sources of pictures, found none")
