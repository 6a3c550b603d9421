"""Spearman's rank correlation, many at a time: what a bootstrap over rated pairs needs."""

import numpy as np

BLOCK = 1 << 21  # values that are ranked at a time


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """f64 [...] of finite values [..., n]: Pearson's correlation of their ranks, equal values sharing their mean rank.

    nan where either side is constant: it orders nothing.
    """
    first, second = np.broadcast_arrays(first, second)
    shape, n = first.shape[:-1], first.shape[-1]
    first, second = first.reshape(-1, n), second.reshape(-1, n)
    found = np.empty(len(first))
    rows = max(1, BLOCK // n)
    for start in range(0, len(first), rows):
        part = slice(start, start + rows)
        found[part] = _pearson(ranks(first[part]), ranks(second[part]))
    return found.reshape(shape)


def ranks(values: np.ndarray) -> np.ndarray:
    """f64 [rows, n]: ranks from 0 along each row of finite values [rows, n]; equal values share their mean rank."""
    order = np.argsort(values, axis=1)
    rising = np.take_along_axis(values, order, axis=1)
    place = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    differs = rising[:, 1:] != rising[:, :-1]
    edge = np.ones((len(values), 1), bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, differs]), place, 0), axis=1)
    last = np.where(np.hstack([differs, edge]), place, values.shape[1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    found = np.empty(values.shape)
    np.put_along_axis(found, order, (first + last) / 2, axis=1)
    return found


def _pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = (x - x.mean(axis=1, keepdims=True) for x in (first, second))
    size = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return np.divide((first * second).sum(axis=1), size, out=np.full(len(first), np.nan), where=size > 0)
