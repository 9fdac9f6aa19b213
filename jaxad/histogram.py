"""How often each score occurs, exactly: float32 scores as keys that sort alike."""

import copy

import numpy as np


def sortable(scores: np.ndarray) -> np.ndarray:
    """float32 scores -> uint32 keys in the same order; -0.0 equals 0.0."""
    bits = (scores + np.float32(0)).view(np.uint32)
    negative = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones, or zero
    return bits ^ (negative | np.uint32(0x80000000))


def scores_of(keys: np.ndarray) -> np.ndarray:
    """The float32 scores that int64 keys are of."""
    bits = keys ^ np.where(keys >= 0x80000000, 0x80000000, 0xFFFFFFFF)
    return bits.astype(np.uint32).view(np.float32)


def score_of(key: int) -> float:
    """The same of one."""
    return float(scores_of(np.array([key], np.int64))[0])


class Histogram:
    """How often each distinct uint32 key occurs: exact, mergeable, bounded.

    The upper half of a key names a page, the lower half a place in it. A page lists its
    lower halves, 2 bytes an item, until one counter for each possible place is smaller.
    So an item costs 2 bytes at most, and a page 256 KiB however many items it has.
    """

    _PAGE = 1 << 16
    _GATHER = 1 << 22  # items taken in before they are sorted into pages

    def __init__(self):
        self.size = 0
        self._gathered: list[np.ndarray] = []
        self._lists: dict[int, np.ndarray] = {}
        self._counters: dict[int, np.ndarray] = {}

    @property
    def nbytes(self) -> int:
        pages = (*self._lists.values(), *self._counters.values())
        return sum(array.nbytes for array in (*self._gathered, *pages))

    def add(self, keys: np.ndarray):
        self.size += keys.size
        self._gathered.append(keys)
        if sum(array.size for array in self._gathered) >= self._GATHER:
            self._sort_into_pages()

    def merge(self, other: "Histogram"):
        if other is self:
            other = copy.deepcopy(self)
        self.size += other.size
        self._gathered += other._gathered
        self._sort_into_pages()
        for page, items in other._lists.items():
            self._add_list(page, items)
        for page, counters in other._counters.items():
            mine = self._counters.get(page, np.zeros_like(counters))
            self._counters[page] = np.add(mine, counters, dtype=self._counter)
            self._add_list(page, self._lists.pop(page, np.zeros(0, np.uint16)))

    def arrays(self) -> dict[str, np.ndarray]:
        """All pages, lists one after the other."""
        self._sort_into_pages()
        lists, counters = self._lists, self._counters
        return {
            "size": np.int64(self.size),
            "list_pages": np.array(list(lists), np.int64),
            "list_lengths": np.array([x.size for x in lists.values()], np.int64),
            "lists": np.concatenate([np.zeros(0, np.uint16), *lists.values()]),
            "counter_pages": np.array(list(counters), np.int64),
            "counters": np.array(list(counters.values()), self._counter),
        }

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> "Histogram":
        histogram = cls()
        histogram.size = int(arrays["size"])
        ends = np.cumsum(arrays["list_lengths"])
        lists = np.split(arrays["lists"], ends[:-1])
        pages = arrays["list_pages"].tolist()
        histogram._lists = dict(zip(pages, lists[: len(pages)], strict=True))
        pages = arrays["counter_pages"].tolist()
        histogram._counters = dict(zip(pages, arrays["counters"], strict=True))
        return histogram

    def ends(self) -> list[int]:
        """The lowest and the highest key; nothing where there is none."""
        self._sort_into_pages()
        found = []
        for page in {min(pages), max(pages)} if (pages := self._pages()) else ():
            items = self._lists.get(page)
            if items is None:
                items = np.flatnonzero(self._counters[page])
            start = page * self._PAGE
            found += [start + int(items.min()), start + int(items.max())]
        return found

    def _pages(self) -> set[int]:
        return {*self._lists, *self._counters}

    def below(self, keys: np.ndarray) -> np.ndarray:
        """How many items are smaller than each of the rising `keys`, [k] int64."""
        self._sort_into_pages()
        result = np.empty(keys.size, np.int64)
        answered = total = 0
        for page in sorted(self._pages()):
            start = page * self._PAGE
            first, last = np.searchsorted(keys, [start, start + self._PAGE])
            result[answered:first] = total
            places = keys[first:last] - start
            if page in self._lists:
                items = np.sort(self._lists[page])
                result[first:last] = total + np.searchsorted(items, places)
                total += items.size
            else:
                sums = np.cumsum(self._counters[page], dtype=np.int64)
                result[first:last] = total + np.append(0, sums)[places]
                total += sums[-1]
            answered = last
        result[answered:] = total
        return result

    @property
    def _counter(self) -> type:
        return np.uint32 if self.size < 1 << 32 else np.uint64

    def _sort_into_pages(self):
        if not self._gathered:
            return
        keys = np.concatenate(self._gathered)
        self._gathered.clear()
        keys.sort()
        starts = np.searchsorted(keys, np.arange(1 << 16, dtype=np.uint32) << 16)
        ends = np.append(starts[1:], keys.size)
        for page in np.flatnonzero(starts < ends):
            items = keys[starts[page] : ends[page]].astype(np.uint16)
            self._add_list(int(page), items)

    def _add_list(self, page: int, items: np.ndarray):
        if page not in self._counters:
            items = np.concatenate([self._lists.pop(page, items[:0]), items])
            if items.nbytes <= self._PAGE * 4:
                self._lists[page] = items
                return
            self._counters[page] = np.zeros(self._PAGE, np.uint32)
        counters = self._counters[page].astype(self._counter, copy=False)
        np.add.at(counters, items.astype(np.intp), counters.dtype.type(1))
        self._counters[page] = counters
