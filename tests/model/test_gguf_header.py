"""Headers of GGUF files: what is read, and every broken one refused in one line, at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.constants import GGMLQuantizationType

from labkit.errors import ModelError
from labkit.model.gguf_header import KINDS, GgufFile, Strings
from labkit.model.load import default_gguf, load
from labkit.optimize.fused import load_fused, native
from tests.fused_helpers import tiny_gguf

native.library()  # compiled before tests have a cache of their own


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama", "Q4_1")


def test_it_reads_what_the_formats_own_reader_reads() -> None:
    ours, theirs = GgufFile(default_gguf()), GGUFReader(default_gguf())
    for name, field in theirs.fields.items():
        if name.startswith("GGUF."):
            continue
        found = ours.fields[name]
        assert (list(found) if isinstance(found, Strings) else found) == field.contents()
    assert len(ours.tensors) == len(theirs.tensors)
    for tensor in theirs.tensors:
        own = ours.tensors[tensor.name]
        assert own.kind == tensor.tensor_type.name
        assert own.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert (own.offset, own.nbytes) == (tensor.data_offset, tensor.n_bytes)
    name = "blk.3.ffn_up.weight"
    rows = next(np.asarray(t.data) for t in theirs.tensors if t.name == name)
    assert np.array_equal(ours.read(ours.tensors[name], 5, 3), rows.view(np.uint8)[5:8])


def patched(file: Path, to: Path, at: int, content: bytes) -> Path:
    data = bytearray(file.read_bytes())
    data[at : at + len(content)] = content
    to.write_bytes(data)
    return to


def after(file: Path, text: bytes) -> int:
    """Where a key's value begins in a file: behind its type."""
    return file.read_bytes().index(text) + len(text) + 4


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("at", "content", "words"),
    [
        (0, b"GGML", "not a GGUF file"),
        (4, b"\0\0\0\3", "GGUF of version"),
        (8, b"\xff" * 8, "the number of tensors is"),
        (16, b"\xff" * 8, "the number of keys is"),
        (24, b"\xff" * 8, "the length of key 0"),
        (b"llama.block_count", (2**31).to_bytes(4, "little"), "num_hidden_layers must be|layers"),
        (b"llama.embedding_length", bytes(4), "llama.embedding_length"),
        (b"general.architecture", (2**40).to_bytes(8, "little"), "general.architecture"),
        (b"tokenizer.ggml.tokens", b"\x08\0\0\0" + b"\xff" * 8, "tokenizer.ggml.tokens"),
        (b"tokenizer.ggml.token_type", b"\x09\0\0\0", "is an array of type 9"),
    ],
)
def test_a_broken_header_is_one_line(
    file: Path, tmp_path: Path, at: int | bytes, content: bytes, words: str
) -> None:
    where = after(file, at) if isinstance(at, bytes) else at
    broken = patched(file, tmp_path / "broken.gguf", where, content)
    for loader in (load, load_fused):
        with pytest.raises(ModelError, match=words) as caught:
            loader(broken)
        assert "\n" not in str(caught.value)


def test_a_part_of_a_split_file_names_the_remedy(tmp_path: Path) -> None:
    from tests.conftest import make_reference
    from tests.fused_helpers import SIZES
    from tests.model.test_gguf_file import gguf_weights, write_gguf

    reference = make_reference("llama", **SIZES)
    file = write_gguf(
        tmp_path / "m-00001-of-00003.gguf", reference, gguf_weights(reference),
        more=lambda writer: writer.add_uint16("split.count", 3),
    )  # fmt: skip
    with pytest.raises(ModelError, match="one part of 3.*llama-gguf-split --merge"):
        load_fused(file)


def test_a_format_of_the_future_is_named(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    at = data.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    unknown = 200
    assert unknown not in set(GGMLQuantizationType)
    broken = patched(file, tmp_path / "new.gguf", at, unknown.to_bytes(4, "little"))
    with pytest.raises(ModelError, match="output_norm.weight has format number 200"):
        GgufFile(broken)


def test_formats_have_ggmls_sizes() -> None:
    from gguf import GGML_QUANT_SIZES

    theirs = {kind.value: (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    assert {number: theirs[number] for number in KINDS} == KINDS
