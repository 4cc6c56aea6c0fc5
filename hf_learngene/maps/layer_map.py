"""Maps through depth: which source layers a target layer is made from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """What one target layer comes from.

    Attributes:
        sources: (source layer, weight) pairs; one pair of weight 1 is a copy.
        inserted: whether it is a new layer that must change nothing.
    """

    sources: tuple[tuple[int, float], ...]
    inserted: bool = False

    @property
    def index(self) -> int:
        """The source layer that counts most: it lends what cannot be mixed (a layer's type)."""
        return max(self.sources, key=lambda pair: abs(pair[1]))[0]


@dataclass(frozen=True)
class LayerMap:
    """One `Layer` for each target layer."""

    layers: tuple[Layer, ...]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    @classmethod
    def pick(cls, indices: Sequence[int]) -> LayerMap:
        """Copies of the source layers at `indices`.

        Example:
            >>> [layer.index for layer in LayerMap.pick([0, 2, 4])]
            [0, 2, 4]
        """
        return cls(tuple(Layer(((int(i), 1.0),)) for i in indices))

    @classmethod
    def spread(cls, old: int, new: int, period: int = 1) -> LayerMap:
        """`new` layers spread evenly over the `old`, first and last kept.

        Layers that alternate are taken together, `period` of them, so that each keeps its turn.

        Example:
            >>> [layer.index for layer in LayerMap.spread(12, 4)], [layer.index for layer in LayerMap.spread(12, 1)]
            ([0, 4, 7, 11], [0])
            >>> [layer.index for layer in LayerMap.spread(6, 4, period=2)]
            [0, 1, 4, 5]
        """
        if period > 1 and new > period:
            rest, uneven = new % period, old % period
            # the last turn is a shortened one: the source's own, or one of its whole ones where that is too short
            whole = new // period + (rest > uneven)
            picked = [turn.index * period + i for turn in cls.spread(old // period, whole) for i in range(period)]
            return cls.pick([*picked, *range(old - uneven, old)][:new])
        if period > 1:
            return cls.pick(range(new))
        return cls.pick([round(i * (old - 1) / max(1, new - 1)) for i in range(new)])

    @classmethod
    def mix(cls, rows: Sequence[Sequence[float]]) -> LayerMap:
        """Each target layer a weighted sum of all source layers; `rows` is (target layers, source layers)."""
        return cls(tuple(Layer(tuple((i, float(w)) for i, w in enumerate(row) if w)) for row in rows))

    @classmethod
    def insert(cls, old: int, new: int, never_after: Collection[int] = (), period: int = 1) -> LayerMap:
        """The `old` layers in order, with `new - old` inserted ones behind them, the later layers served first.

        Up to twice the depth this is LEMON's placement: each of the last `new - old` layers is followed by one. None
        follows a layer of `never_after`. Where `period` layers alternate, as many are inserted at once, as a copy of those before
        them, and what is left over behind the last layer, so that each layer keeps its turn.

        Example:
            >>> [(layer.index, layer.inserted) for layer in LayerMap.insert(2, 3)]
            [(0, False), (1, False), (1, True)]
            >>> [layer.index for layer in LayerMap.insert(4, 7, period=2)]
            [0, 1, 2, 3, 2, 3, 2]
        """
        if period > 1:
            return cls._insert_turns(old, new, period)
        followed = [i for i in range(old) if i not in never_after]
        each, more = divmod(new - old, max(1, len(followed)))
        counts = {i: each + (rank >= len(followed) - more) for rank, i in enumerate(followed)}
        layers = []
        for i in range(old):
            layers.append(Layer(((i, 1.0),)))
            count = counts.get(i, 0)
            layers += [Layer(((i, 1.0),), inserted=True)] * count
        return cls(tuple(layers))

    @classmethod
    def _insert_turns(cls, old: int, new: int, period: int) -> LayerMap:
        whole = old // period
        turns = cls.insert(whole, whole + (new - old) // period) if whole else cls(())
        layers = [
            Layer(((turn.index * period + i, 1.0),), inserted=turn.inserted) for turn in turns for i in range(period)
        ]
        layers += [Layer(((i, 1.0),)) for i in range(whole * period, old)]
        for place in range(len(layers), new):
            like = max((i for i in range(old) if i % period == place % period), default=old - 1)
            layers.append(Layer(((like, 1.0),), inserted=True))
        return cls(tuple(layers))

    def describe(self) -> str:
        """Which source layers become which, for people.

        Example:
            >>> LayerMap.pick([0, 2, 4, 7, 9, 11]).describe(), LayerMap.pick([0, 1, 2]).describe()
            ('0, 2, 4, 7, 9, 11 → 0–5', '0–2')
            >>> LayerMap.insert(4, 6).describe()
            '0–3 → 0–2, 4; new 3, 5 (copies of 2, 3)'
        """
        if not self.layers:
            return "none"
        if any(len(layer.sources) > 1 for layer in self.layers):
            return "mixed"
        stay = [(layer.index, place) for place, layer in enumerate(self.layers) if not layer.inserted]
        new = [(layer.index, place) for place, layer in enumerate(self.layers) if layer.inserted]
        text = moved(stay)
        if not new:
            return text
        copies, places = zip(*new, strict=True)
        return f"{text}; new {spans(places)} ({'a copy' if len(new) == 1 else 'copies'} of {spans(copies)})"


def moved(pairs: Sequence[tuple[int, int]]) -> str:
    """(source layer, target layer) pairs for people; only once where they are the same.

    Example:
        >>> moved([(0, 0), (2, 1), (4, 2)]), moved([(0, 0), (1, 1), (2, 2)])
        ('0, 2, 4 → 0–2', '0–2')
    """
    if all(a == b for a, b in pairs):
        return spans([a for a, _ in pairs])
    return f"{spans([a for a, _ in pairs])} → {spans([b for _, b in pairs])}"


def spans(numbers: Sequence[int], to: str = "–", separator: str = ", ") -> str:
    """Numbers in order for people, three and more that follow each other as a span.

    Example:
        >>> spans([0, 1, 2, 5, 6]), spans([0, 1, 0, 1]), spans([0, 1, 2, 4], "-", ",")
        ('0–2, 5, 6', '0, 1, 0, 1', '0-2,4')
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return separator.join(f"{run[0]}{to}{run[-1]}" if len(run) > 2 else separator.join(map(str, run)) for run in runs)
