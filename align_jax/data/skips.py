"""Records that could not be used: written down as they are consumed, counted by reason, never silent."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from align_jax.types import AlignError


class SkipLog:
    """Appends to <workdir>/skipped.jsonl; stops the run when more than a configured share is bad."""

    LEAST = 1000  # rows of which the share is taken at least: one bad record among the first ten says nothing

    def __init__(self, path: Path, *, max_share: float):
        self._path, self._max_share = path, max_share
        self._rows = 0
        self.reasons: Counter[str] = Counter()

    def resume(self, step: int, rows: int) -> None:
        """Takes up a run after `step` steps of `rows` rows: what it wrote of later steps is to come again."""
        self._rows = step * rows
        if not self._path.exists():
            return
        lines = self._path.read_text().split("\n")[:-1]  # what follows the last end of a line was cut off by a kill
        skips = [skip for line in lines if (skip := json.loads(line))["step"] < step]
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text("".join(json.dumps(skip) + "\n" for skip in skips))
        partial.replace(self._path)
        self.reasons = Counter(skip["reason"] for skip in skips)

    def add(self, step: int, rows: int, skips: list[dict[str, Any]]) -> None:
        """Counts one consumed batch of `rows` rows."""
        self._rows += rows
        if not skips:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.writelines(json.dumps({"step": step, **skip}) + "\n" for skip in skips)
        self.reasons.update(skip["reason"] for skip in skips)
        bad = self.reasons.total()
        if bad > self._max_share * max(self._rows + bad, self.LEAST):
            raise AlignError(
                f"data: expected at most {self._max_share:.2%} unusable records, found {bad} beside {self._rows} good "
                f"ones ({self.summary()}); mend what {self._path} lists or raise --config.data.max_bad_share"
            )

    def summary(self) -> str:
        """'3 image unreadable, 1 text empty'."""
        return ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
