"""The header of a GGUF file, read and checked: keys, and where each tensor lies.

Everything a file says is checked before it is believed: a file that is cut short, damaged or absurd
is refused in one line, without a large allocation. The format:
github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from labkit.base.units import shown
from labkit.errors import ModelError

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
_BOOL = 7
# ggml's formats by number: name, numbers of a block, bytes of a block (ggml.h, ggml-common.h).
# Importing the package gguf for them takes longer than reading a header.
KINDS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
_LONG = Struct("<Q")
_NAME = 256  # characters of the longest name
_TEXT = 2**20  # bytes of the longest text that is no element of an array: chat templates are long


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file. kind: its format, as ggml names it. shape: rows first. offset: of its
    first byte in the file."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        """Numbers that it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Strings:
    """An array of texts, decoded when they are asked for."""

    data: mmap.mmap
    start: int
    count: int

    def __iter__(self) -> Iterator[str]:
        at = self.start
        for _ in range(self.count):
            (length,) = _LONG.unpack_from(self.data, at)
            yield self.data[at + 8 : at + 8 + length].decode("utf-8", "replace")
            at += 8 + length

    def __len__(self) -> int:
        return self.count


class _Cursor:
    """Reads a file's header from front to back; ModelError where the file ends too early."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def wrong(self, what: str) -> ModelError:
        return ModelError(f"{self.path} {what} Fetch it again.")

    def skip(self, count: int, what: str) -> int:
        """Go on by `count` bytes; returns where they begin."""
        start = self.at
        if count > len(self.data) - start:
            raise self.wrong(f"is cut short or damaged: {what} ends beyond the file's end.")
        self.at += count
        return start

    def scalar(self, kind: int, what: str) -> Any:
        form = np.dtype(_SCALARS[kind])
        start = self.skip(form.itemsize, what)
        value = np.frombuffer(self.data, form, 1, start)[0].item()
        return bool(value) if kind == _BOOL else value

    def count(self, what: str, each: int) -> int:
        """A number of things that take at least `each` bytes in the file."""
        found = int(self.scalar(10, what))
        if found * each > len(self.data) - self.at:
            raise self.wrong(f"is cut short or damaged: {what} is {found:,}, too many for it.")
        return found

    def text(self, what: str) -> str:
        length = self.count(f"the length of {what}", 1)
        if length > _TEXT:
            raise self.wrong(f"is damaged: {what} has {length:,} bytes.")
        start = self.skip(length, what)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.wrong(f"is damaged: {what} is no text.") from None

    def name(self, what: str) -> str:
        """A text that can be a name in a message: one line."""
        found = self.text(what)
        if not found.isprintable() or len(found) > _NAME:
            raise self.wrong(f"is damaged: {what} is no name.")
        return found

    def value(self, key: str) -> Any:
        kind = self.scalar(4, f"the type of {key}")
        if kind == _STRING:
            return self.text(key)
        if kind in _SCALARS:
            return self.scalar(kind, key)
        if kind != _ARRAY:
            raise self.wrong(f"is damaged: {key} has type {kind}, which GGUF does not have.")
        return self._array(key)

    def _array(self, key: str) -> Any:
        kind = self.scalar(4, f"the type of {key}")
        if kind == _STRING:
            count = self.count(f"the length of {key}", 8)
            start, at, end = self.at, self.at, len(self.data)
            for _ in range(count):  # a hot loop: hundreds of thousands of tokens
                if at + 8 > end:
                    break
                at += 8 + _LONG.unpack_from(self.data, at)[0]
            self.skip(at - start, key)
            return Strings(self.data, start, count)
        if kind not in _SCALARS:
            raise self.wrong(f"is damaged: {key} is an array of type {kind}.")
        form = np.dtype(_SCALARS[kind])
        count = self.count(f"the length of {key}", form.itemsize)
        start = self.skip(count * form.itemsize, key)
        found: list[Any] = np.frombuffer(self.data, form, count, start).tolist()
        return [bool(one) for one in found] if kind == _BOOL else found


class GgufFile:
    """A GGUF file: `fields`, its keys and values, and `tensors` by name, all checked.

    Arrays are lists; arrays of texts are `Strings`. Raises ModelError for a file that is missing,
    cut short, damaged, or a part of a split one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._size = os.fstat(file.fileno()).st_size
                head = file.read(8)
                if len(head) < 8 or head[:4] != _MAGIC:
                    raise ModelError(
                        f"{path} cannot be read as GGUF: it is cut short or not a GGUF file. "
                        "Fetch it again."
                    )
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise ModelError(f"no such file: {path}.") from None
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
        cursor = _Cursor(self._data, path)
        cursor.at = 4
        version = cursor.scalar(4, "the version")
        if version not in _VERSIONS:
            raise ModelError(
                f"{path} is GGUF of version {version} (or for big-endian machines); versions 2 and "
                "3 of little-endian files are read. Convert it with a newer llama.cpp."
            )
        tensors = cursor.count("the number of tensors", 24)
        self.fields = dict(self._fields(cursor, cursor.count("the number of keys", 13)))
        parts = self.fields.get("split.count", 0)
        if type(parts) is not int or parts not in (0, 1):
            raise ModelError(
                f"{path} is one part of {shown(parts)} of a split file (key "
                "split.count). Join them: llama-gguf-split --merge FIRST_PART WHOLE.gguf."
            )
        self.tensors = {one.name: one for one in self._tensors(cursor, tensors)}

    def _fields(self, cursor: _Cursor, count: int) -> Iterator[tuple[str, Any]]:
        seen = set()
        for number in range(count):
            key = cursor.name(f"key {number}")
            if key in seen:
                raise cursor.wrong(f"is damaged: it has the key {key} twice.")
            seen.add(key)
            yield key, cursor.value(key)

    def _tensors(self, cursor: _Cursor, count: int) -> list[GgufTensor]:
        found = [self._tensor(cursor, number) for number in range(count)]
        names = [one[0] for one in found]
        if len(set(names)) < count:
            twice = next(name for name in names if names.count(name) > 1)
            raise cursor.wrong(f"is damaged: it has the tensor {twice} twice.")
        alignment = self.fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
            raise cursor.wrong(f"is damaged: general.alignment is {alignment!r}.")
        start = -(-cursor.at // alignment) * alignment
        made = [
            GgufTensor(name, kind, shape, start + offset, nbytes)
            for name, kind, shape, offset, nbytes in found
        ]
        end = start
        for one in sorted(made, key=lambda one: one.offset):
            if one.offset % alignment or one.offset < end:
                raise cursor.wrong(f"is damaged: tensor {one.name} lies where another one does.")
            end = one.offset + one.nbytes
            if end > self._size:
                raise ModelError(
                    f"{self.path} is cut short: tensor {one.name} ends at byte {end}, the file at "
                    f"{self._size}. Fetch it again."
                )
        return made

    def _tensor(self, cursor: _Cursor, number: int) -> tuple[str, str, tuple[int, ...], int, int]:
        name = cursor.name(f"the name of tensor {number}")
        dimensions = cursor.scalar(4, f"tensor {name}")
        if not 1 <= dimensions <= 4:
            raise cursor.wrong(f"is damaged: tensor {name} has {dimensions} dimensions.")
        sizes = [int(cursor.scalar(10, f"tensor {name}")) for _ in range(dimensions)]
        number, offset = (
            cursor.scalar(4, f"tensor {name}"),
            int(cursor.scalar(10, f"tensor {name}")),
        )
        if number not in KINDS:
            raise ModelError(
                f"{self.path}: tensor {name} has format number {number}, which is not known here."
            )
        kind, columns, nbytes = KINDS[number]
        if min(sizes) < 1 or sizes[0] % columns:
            raise cursor.wrong(f"is damaged: tensor {name} has sizes {sizes} in {kind}.")
        size = math.prod(sizes) // columns * nbytes
        return name, kind, tuple(reversed(sizes)), offset, size

    def formats(self) -> Counter[str]:
        """Bytes of the tensors in each format."""
        found: Counter[str] = Counter()
        for tensor in self.tensors.values():
            found[tensor.kind] += tensor.nbytes
        return found

    def read(self, tensor: GgufTensor, first: int = 0, count: int | None = None) -> np.ndarray:
        """Rows of a tensor as bytes, (count, bytes of a row) uint8, from row `first` on. A copy:
        pages of a mapped file would stay in memory beside what is made of them."""
        rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
        each = tensor.nbytes // rows
        count = rows - first if count is None else count
        at = tensor.offset + first * each
        try:
            found = np.fromfile(self.path, np.uint8, count * each, offset=at)
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror}.") from error
        if found.size < count * each:
            raise ModelError(f"{self.path} became shorter while it was read. Fetch it again.")
        return found.reshape(count, each)
