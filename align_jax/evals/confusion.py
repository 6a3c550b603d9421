"""Which classes a classifier gets wrong, and what it takes them for."""

from collections.abc import Sequence

import numpy as np

from align_jax.evals.panels import Confusion

MOST = 16  # classes that a person can read


def worst_confusions(
    labels: np.ndarray, guesses: np.ndarray, classes: Sequence[str], *, title: str, most: int = MOST
) -> Confusion:
    """The classes with the lowest share of right guesses, each followed by the class it is most often taken for.

    labels, guesses int [n], below len(classes). At most `most` classes; of equally bad ones the first come first.
    Classes that are always right stand there only if another is taken for them.
    """
    count = len(classes)
    asked = np.bincount(labels, minlength=count)
    wrong = labels != guesses
    missed = np.bincount(labels[wrong], minlength=count)
    share = np.divide(missed, asked, out=np.zeros(count), where=asked > 0)
    shown: list[int] = []
    for worst in np.argsort(-share, kind="stable"):
        if not missed[worst] or len(shown) >= most:
            break
        usual = np.bincount(guesses[wrong & (labels == worst)]).argmax()
        shown += [int(c) for c in (worst, usual) if c not in shown]
    shown = shown[:most]
    place = np.full(count, -1)
    place[shown] = np.arange(len(shown))
    rows, columns = place[labels], place[guesses]
    inside = (rows >= 0) & (columns >= 0)
    counts = np.zeros((len(shown), len(shown)), np.int64)
    np.add.at(counts, (rows[inside], columns[inside]), 1)
    note = (
        f"{len(shown)} of {count} classes, the worst first, each before what it is most often taken for; they hold "
        f"{int((inside & wrong).sum())} of {int(wrong.sum())} errors in {len(labels)} guesses"
    )
    return Confusion(title, note, [classes[c] for c in shown], counts, asked[shown])
