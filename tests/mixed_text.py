"""A text of everything that tokenizers stumble over, and what llama.cpp makes of it.

`python -m tests.mixed_text` asks llama.cpp (`make peers`) for its tokens and prints their digests,
which tests/model/test_gguf_tokenizer.py holds ours to.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFWriter

from labkit.bench.install import peer_python
from labkit.model.gguf_header import GgufFile
from labkit.model.gguf_tokenizer import CUTS
from labkit.model.load import default_gguf

_CODE = '''
def limit(cost: Cost, hardware: Hardware) -> Limit:
    """The least time of a pass: max(bytes / bandwidth, FLOPs / rate)."""
    read = cost.bytes / hardware.bandwidth  # seconds
    if (read > 1e-3) and not hardware.is_gpu: return Limit(read, "memory", {"x": [1, 2_000, 0x3F]})
    for (int i = 0; i < n; i++) { sum += a[i] * b[i]; } /* it's we'll I'M HE'S don't */
'''
_CHINESE = (
    "大语言模型的推理速度取决于内存带宽。我们先测量硬件，再预测极限，然后计时。２０２６年１１月"
)
_ODD = (
    "😀👩‍💻🇨🇳½①Ⅷ´`¨ñéüßΩμέγα привет שלום नमस्ते 한국어 ありがとう"
    "\u200b\ufeff\u00a0\u2028\u0301\U0001f9ea"
)
_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_PARTS = 2_600


def mixed_text() -> str:
    """Some 100 kB, the same each time."""
    rng = random.Random(1)

    def part() -> str:
        kind = rng.random()
        if kind < 0.4:
            at = rng.randrange(len(_CODE))
            return _CODE[at : at + rng.randrange(5, 200)]
        if kind < 0.7:
            some = _CHINESE if kind < 0.55 else _ODD
            return "".join(rng.choice(some) for _ in range(rng.randrange(1, 30)))
        if kind < 0.75:
            return "".join(chr(rng.randrange(1, 160)) for _ in range(rng.randrange(1, 8)))
        if kind < 0.85:
            return rng.choice(_SPECIAL)
        if kind < 0.92:
            return f"{rng.randrange(10 ** rng.randrange(1, 12))}{rng.choice((' ', '  ', chr(10)))}"
        return "".join(chr(rng.randrange(32, 0x2FFF)) for _ in range(rng.randrange(1, 30)))

    return "".join(part() for _ in range(_PARTS))


def digest(tokens: Sequence[int]) -> str:
    """What stands for a list of tokens in the test."""
    return hashlib.sha256(json.dumps(list(tokens)).encode()).hexdigest()[:16]


def writer_of(path: Path, kind: str) -> Any:
    writer: Any = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(kind)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return writer


def finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def byte_level(path: Path, pre: str) -> Path:
    """A file without weights: the default model's tokens, and a way to cut."""
    fields, writer = GgufFile(default_gguf()).fields, writer_of(path, "gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(fields["tokenizer.ggml.tokens"]))
    writer.add_token_types(fields["tokenizer.ggml.token_type"])
    writer.add_token_merges(list(fields["tokenizer.ggml.merges"]))
    finish(writer)
    return path


def sentencepiece(path: Path, prefix: bool) -> Path:
    """A file without weights: pieces of the text's own words, by their frequency."""
    pieces: dict[str, None] = dict.fromkeys("\u2581" + "".join(sorted(set(_CODE + _CHINESE))))
    for word in (_CODE.replace("\n", " ") + " " + _CHINESE).split(" "):
        for end in range(2, len(word) + 2):
            pieces[("\u2581" + word)[:end]] = None
    some = [piece for piece in pieces if piece not in (" ", "\n")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *_SPECIAL, *some]
    kinds = [2, 3, 3, *[6] * 256, *[3] * len(_SPECIAL), *[1] * len(some)]
    first = len(tokens) - len(some)
    writer = writer_of(path, "llama")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_scores([0.0] * first + [-float(n) for n in range(len(some))])
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(prefix)
    finish(writer)
    return path


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """A file of every kind of tokenizer that is read."""
    for pre in CUTS:
        yield pre, byte_level(folder / f"{pre}.gguf", pre)
    yield "sentencepiece", sentencepiece(folder / "prefix.gguf", prefix=True)
    yield "sentencepiece, no prefix", sentencepiece(folder / "none.gguf", prefix=False)


_ASK = """
import ctypes, json, sys
from llama_cpp import llama_cpp as api
api.llama_backend_init()
params = api.llama_model_default_params()
params.vocab_only = True
load = getattr(api, "llama_model_load_from_file", None) or api.llama_load_model_from_file
vocabulary = api.llama_model_get_vocab(load(sys.argv[1].encode(), params))
text = sys.stdin.buffer.read()
found = (ctypes.c_int * (len(text) + 16))()
count = api.llama_tokenize(vocabulary, text, len(text), found, len(found), True, True)
print(json.dumps(found[:count]))
"""


def main() -> None:
    """Print the digests of llama.cpp's tokens."""
    with tempfile.TemporaryDirectory() as folder:
        for name, file in files(Path(folder)):
            command = [str(peer_python("llama.cpp")), "-c", _ASK, str(file)]
            done = subprocess.run(
                command, input=mixed_text().encode(), capture_output=True, check=True
            )
            print(f'    "{name}": "{digest(json.loads(done.stdout.splitlines()[-1]))}",')


if __name__ == "__main__":
    main()
