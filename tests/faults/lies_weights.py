"""Lies in weights: headers of safetensors, tensors that are not what the config says, indices of shards, and pickles."""

from __future__ import annotations

import copy
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from faults.lies import RAN, Lie


WEIGHTS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
_LENGTHS = (0, 1, 7, 2**20, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)
_SHAPES: tuple[Any, ...] = ([], [0], [-1], [1], ["a"], [2**62, 2**62], [2**32, 2**32], None, "x", [1.5], {}, [[1]])
_DTYPES: tuple[Any, ...] = ("F16", "F64", "I8", "U64", "F8_E4M3", "BOOL", "C64", "f32", "", 3, None, [])
_OFFSETS: tuple[Any, ...] = (
    [0, 0],
    [0, 2**62],
    [2**63, 2**63],
    [-4, 0],
    [4, 0],
    [0],
    [],
    None,
    "x",
    [0, 4, 8],
    [0.0, 4.0],
)


def headers(folder: Path) -> Iterator[Lie]:
    """A header whose length, fields or places are wrong. None of these is read: what it says is not what is there."""
    whole = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    names = sorted(header.keys() - {"__metadata__"})
    for number in (*_LENGTHS, length - 1, length + 1, len(whole), len(whole) - 8):
        content = struct.pack("<Q", number) + whole[8:]
        yield _writing(f"the header has {number} bytes", content)
    for count in (0, 1, 7, 8, 9, 8 + length // 2, 8 + length, 9 + length, len(whole) // 2, len(whole) - 1):
        yield _writing(f"cut at {count}", whole[:count])
    for more in (b"\0", b"x" * 4096):
        yield _writing(f"{len(more)} bytes more", whole + more)
    for name, text in (
        ("no JSON", b"x" * length),
        ("a list", b"[]"),
        ("empty", b"{}"),
        ("null", b"null"),
        ("deep", b"[" * 99_999),
    ):
        yield _writing(f"the header is {name}", struct.pack("<Q", len(text)) + text + whole[8 + length :])
    for field, values in (("shape", _SHAPES), ("dtype", _DTYPES), ("data_offsets", _OFFSETS), ("", (None, [], 3, {}))):
        for tensor in (names[0], names[len(names) // 2], names[-1]):
            for value in values:
                changed = copy.deepcopy(header)
                if field:
                    changed[tensor][field] = value
                else:
                    changed[tensor] = value
                yield _writing(f"{tensor}: {field or 'all'} is {value}", _file(changed, whole[8 + length :]))
    first, second = names[:2]
    changed = copy.deepcopy(header)
    changed[first]["data_offsets"] = changed[second]["data_offsets"]
    yield _writing("two tensors at one place", _file(changed, whole[8 + length :]))
    doubled = json.dumps(header)[:-1] + f', "{first}": {json.dumps(header[second])}}}'
    yield _writing("a name twice", struct.pack("<Q", len(doubled)) + doubled.encode() + whole[8 + length :])


def metadata(folder: Path) -> Iterator[Lie]:
    """Metadata of another format, or of none: a reader may go without."""
    whole = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    for value in (
        {"format": "tf"},
        {"format": "mlx"},
        {"format": "x"},
        {},
        {"format": 3},
        None,
        [],
        "x",
        {"a": {"b": 1}},
    ):
        yield _writing(f"metadata is {value}", _file({**header, "__metadata__": value}, whole[8 + length :]), True)
    without = {name: value for name, value in header.items() if name != "__metadata__"}
    yield _writing("no metadata", _file(without, whole[8 + length :]), True)


def tensors(folder: Path) -> Iterator[Lie]:
    """Whole files of other tensors than the config says: absent, more, of other shapes, dtypes and values."""
    state = load_file(folder / WEIGHTS)
    for name, tensor in state.items():
        yield _saving(f"no {name}", lambda s, name=name: s.pop(name))
        yield _saving(f"{name} by another name", lambda s, name=name: s.update({f"x{name}": s.pop(name)}))
        for told, change in CHANGES.items():
            if (made := change(tensor.clone())) is not None:
                yield _saving(f"{name} {told}", lambda s, name=name, made=made: s.update({name: made}))
    yield _saving("nothing", lambda s: s.clear())
    yield _saving("one more", lambda s: s.update({"one.more": torch.zeros(3)}))
    deepest = [name for name in state if ".2." in name]
    yield _saving("a layer more", lambda s: s.update({n.replace(".2.", ".3."): s[n].clone() for n in deepest}))
    yield _saving("a layer less", lambda s: [s.pop(n) for n in deepest])
    yield _saving("a prefix before all", lambda s: [s.update({f"module.{n}": s.pop(n)}) for n in list(s)])
    for told, value in (("not a number", float("nan")), ("infinite", float("inf")), ("beyond float16", 1e38)):
        yield _saving(
            f"all is {told}", lambda s, value=value: [t.fill_(value) for t in s.values() if t.is_floating_point()]
        )


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    "with a row more": lambda t: torch.cat([t, t[:1]]) if t.dim() else None,
    "transposed": lambda t: t.T.contiguous() if t.dim() == 2 and t.shape[0] != t.shape[1] else None,
    "flat": lambda t: t.flatten() if t.dim() > 1 else t[:, None],
    "empty": lambda t: t[:0],
    "of bytes": lambda t: t.to(torch.int8),
    "of complex numbers": lambda t: t.to(torch.complex64),
    "of float8": lambda t: t.to(torch.float8_e4m3fn),
    "holds no number": lambda t: t.index_fill_(0, torch.tensor([0]), float("nan")),
}


def indices(folder: Path) -> Iterator[Lie]:
    """An index of shards that names what is not there, not in it, or not in the folder. No reader may believe it."""
    state = load_file(folder / WEIGHTS)
    names = sorted(state)
    half = len(names) // 2
    shards = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    honest = {name: file for file, held in shards.items() for name in held}
    one, two = shards

    def telling(name: str, index: Any, more: Callable[[Path], Any] = lambda place: None, read: bool = False) -> Lie:
        def tell(place: Path) -> None:
            (place / WEIGHTS).unlink()
            for file, held in shards.items():
                save_file({n: state[n] for n in held}, place / file, metadata={"format": "pt"})
            more(place)
            (place / INDEX).write_text(json.dumps(index))

        return Lie(f"index: {name}", tell, INDEX, read)

    def mapping(changed: Any) -> dict[str, Any]:
        return {"metadata": {"total_size": 1}, "weight_map": changed}

    yield telling("honest", mapping(honest), read=True)
    outside = f"../outside/{one}"

    def put_outside(place: Path) -> None:
        (place.parent / "outside").mkdir()
        (place / one).rename(place.parent / "outside" / one)

    yield telling("a shard outside", mapping({n: outside if f == one else f for n, f in honest.items()}), put_outside)
    inner = f"x/../{one}"
    yield telling("a path through a folder", mapping({n: inner if f == one else f for n, f in honest.items()}),
                  lambda place: (place / "x").mkdir())  # fmt: skip

    def absolute(place: Path) -> None:
        put_outside(place)
        there = str(place.parent / "outside" / one)
        index = mapping({n: there if f == one else f for n, f in honest.items()})
        (place / INDEX).write_text(json.dumps(index))

    def tell_absolute(place: Path) -> None:
        telling("", {}).tell(place)
        absolute(place)

    yield Lie("index: an absolute path", tell_absolute, INDEX, False)
    yield telling("an absent shard", mapping(honest), lambda place: (place / two).unlink())
    yield telling(
        "a shard that is a folder", mapping(honest), lambda place: ((place / two).unlink(), (place / two).mkdir())
    )
    yield telling("a shard that is a link outside", mapping(honest), lambda place: (
        put_outside(place), (place / one).symlink_to(f"../outside/{one}")), read=True)  # fmt: skip
    yield telling(
        "half of a shard", mapping(honest), lambda place: (place / two).write_bytes((place / two).read_bytes()[:-9])
    )
    yield telling("tensors named for another shard", mapping({n: two if n == names[0] else f for n, f in honest.items()}),
                  read=True)  # fmt: skip
    yield telling("a tensor that is nowhere", mapping({**honest, "vit.more": one}), read=True)
    yield telling("a tensor unnamed", mapping({n: f for n, f in honest.items() if n != names[half]}), read=True)
    yield telling("all of one shard unnamed", mapping({n: f for n, f in honest.items() if f == one}))
    yield telling("a tensor in both shards", mapping(honest), lambda place: save_file(
        {n: torch.zeros_like(state[n]) if n == names[0] else state[n] for n in (*names[half:], names[0])}, place / two,
        metadata={"format": "pt"}), read=True)  # fmt: skip
    for value in (None, [], {}, "x", 3, [one]):
        yield telling(f"weight_map is {value}", mapping(value))
    for file in (3, None, [one], "", ".", "config.json", INDEX, "/dev/zero", "x" * 5000, "a\0b"):
        yield telling(f"{names[0]} is in {str(file)[:20]}", mapping({**honest, names[0]: file}))
    for value in (None, [], "x", 3, {}):
        yield telling(f"all is {value}", value)
    yield telling("no metadata", {"weight_map": honest}, read=True)
    for value in (None, [], "x", {"total_size": -1}, {"total_size": "x"}, {"total_parameters": 10**18}):
        yield telling(f"metadata is {value}", {"metadata": value, "weight_map": honest}, read=True)


# ---- pickles


class _Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def pickles(folder: Path) -> Iterator[Lie]:
    """Pickled files of every form, most of which would run code: nobody reads more of them than plain tensors."""
    state = load_file(folder / WEIGHTS)
    for name, write in FORMS.items():

        def tell(place: Path, write: Callable[[Path, Any, Path], Any] = write) -> None:
            (place / WEIGHTS).unlink()
            write(place / PICKLE, dict(state), place.parent / RAN)

        yield Lie(f"{PICKLE}: {name}", tell, PICKLE, name.startswith("honest"))


def _saved(content: Any, **named: Any) -> bytes:
    out = BytesIO()
    torch.save(content, out, **named)
    return out.getvalue()


def _zip_with(path: Path, state: Any, data: bytes) -> None:
    """An archive of torch whose list of tensors is another."""
    with zipfile.ZipFile(BytesIO(_saved(state))) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))


FORMS: dict[str, Callable[[Path, Any, Path], Any]] = {
    "honest": lambda path, state, ran: path.write_bytes(_saved(state)),
    "honest, of the old form": lambda path, state, ran: path.write_bytes(
        _saved(state, _use_new_zipfile_serialization=False)
    ),
    "code alone": lambda path, state, ran: path.write_bytes(pickle.dumps(_Evil(ran))),
    "code of protocol 0": lambda path, state, ran: path.write_bytes(pickle.dumps(_Evil(ran), 0)),
    "code beside tensors": lambda path, state, ran: path.write_bytes(_saved({**state, "x": _Evil(ran)})),
    "code beside tensors, of the old form": lambda path, state, ran: path.write_bytes(
        _saved({**state, "x": _Evil(ran)}, _use_new_zipfile_serialization=False)
    ),
    "code in the archive": lambda path, state, ran: _zip_with(path, state, pickle.dumps(_Evil(ran), 2)),
    "code as a key": lambda path, state, ran: path.write_bytes(_saved({(_Evil(ran), 1): 1})),
    "a whole module": lambda path, state, ran: path.write_bytes(_saved(torch.nn.Linear(2, 2))),
    "an array": lambda path, state, ran: path.write_bytes(_saved({n: np.zeros(3) for n in state})),
    "a list": lambda path, state, ran: path.write_bytes(_saved([1, 2])),
    "one tensor": lambda path, state, ran: path.write_bytes(_saved(torch.zeros(3))),
    "texts for tensors": lambda path, state, ran: path.write_bytes(_saved(dict.fromkeys(state, "x"))),
    "numbers for names": lambda path, state, ran: path.write_bytes(_saved({1: torch.zeros(2)})),
    "nothing": lambda path, state, ran: path.write_bytes(_saved({})),
    "empty": lambda path, state, ran: path.write_bytes(b""),
    "half": lambda path, state, ran: path.write_bytes(_saved(state)[: len(_saved(state)) // 2]),
    "a text": lambda path, state, ran: path.write_bytes(b"hello"),
    "a zip of nothing": lambda path, state, ran: zipfile.ZipFile(path, "w").close(),
    "a zip of a text": lambda path, state, ran: zipfile.ZipFile(path, "w").writestr("x/data.pkl", "hello"),
    "no end": lambda path, state, ran: path.write_bytes(pickle.dumps(state)[:-1]),
    "a list a million deep": lambda path, state, ran: path.write_bytes(
        b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b"."
    ),
}


def _file(header: Any, rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def _writing(name: str, content: bytes, read: bool = False) -> Lie:
    return Lie(f"{WEIGHTS}: {name}", lambda place: (place / WEIGHTS).write_bytes(content), WEIGHTS, read)


def _saving(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Lie:
    def tell(place: Path) -> None:
        state = load_file(place / WEIGHTS)
        change(state)
        save_file({n: t.contiguous() for n, t in state.items()}, place / WEIGHTS, metadata={"format": "pt"})

    return Lie(f"{WEIGHTS}: {name}", tell, WEIGHTS)
