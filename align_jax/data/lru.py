"""What was read last, kept while it is likely to be read again."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Lru(Generic[Value]):
    """Key -> value, safe among threads. Of a key that several ask for at once, one reads and the others wait.

    `limit`: sum of `cost` over the values that are kept; beyond it the longest unused go. The newest always stays.
    """

    def __init__(self, limit: int, cost: Callable[[Value], int]):
        self._limit, self._cost = limit, cost
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, Future[Value]] = OrderedDict()
        self._costs: dict[Hashable, int] = {}  # of those that are read

    def get(self, key: Hashable, read: Callable[[], Value]) -> Value:
        """The value of `key`, from `read()` where it is not kept. What `read` raises is raised here, and not kept."""
        with self._lock:
            known = self._values.get(key)
            if known is not None:
                self._values.move_to_end(key)
                future = known
            else:
                future = self._values[key] = Future()
        if known is None:
            self._read(key, read, future)
        return future.result()

    def _read(self, key: Hashable, read: Callable[[], Value], future: Future[Value]) -> None:
        try:
            value = read()
        except BaseException as error:
            with self._lock:
                del self._values[key]
            future.set_exception(error)
            return
        with self._lock:
            self._costs[key] = self._cost(value)
            excess = sum(self._costs.values()) - self._limit
            for old in [old for old in self._values if old in self._costs and old != key]:
                if excess <= 0:
                    break
                excess -= self._costs.pop(old)
                del self._values[old]
        future.set_result(value)
