"""The tokenizer of a GGUF file, built from its own keys, so that its ids are llama.cpp's.

Two kinds are read: byte-level BPE ("gpt2") with the ways to cut a text that are listed here, and
SentencePiece's BPE ("llama"). Everything else is refused by name. The ways to cut are llama.cpp's
(src/llama-vocab.cpp); tests compare the ids with llama.cpp's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.errors import ModelError
from labkit.model.gguf_header import GgufFile, Strings

_KEY = "tokenizer.ggml"
_WORD = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
_SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_LETTERS = "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
_LLAMA3 = (f"{_SHORT}|{_LETTERS}|\\p{{N}}{{1,3}}|{_REST}",)
_QWEN2 = (f"{_SHORT}|{_LETTERS}|\\p{{N}}|{_REST}",)
_DIGITS = ("\\p{N}", _WORD)
# A word is cut before a capital letter; llama.cpp takes any letter but a-z for one, and any but A-Z
# for a small one.
_ANY = "[^\\r\\n\\p{L}\\p{N}]?"
_CAPITAL, _SMALL = "(?:(?=\\p{L})[^a-z])", "(?:(?=\\p{L})[^A-Z])"
_GPT4O = (
    f"{_ANY}{_CAPITAL}*{_SMALL}+{_SHORT}?|{_ANY}{_CAPITAL}+{_SMALL}*{_SHORT}?|"
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
)
# tokenizer.ggml.pre -> expressions that cut a text, one after another.
CUTS: dict[str, Sequence[str]] = {
    "gpt-2": (_WORD,),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "dbrx": _LLAMA3,
    "smaug-bpe": _LLAMA3,
    "gpt-4o": _GPT4O,
}
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")  # a word that is a token needs no merges
_MODELS = ("gpt2", "llama")
_CONTROL, _USER, _UNKNOWN, _BYTE = 3, 4, 2, 6  # kinds of tokens
_SPACE = "\u2581"


def check_tokenizer(file: GgufFile) -> None:
    """ModelError where a file's tokenizer is missing, or is none that is read here."""
    kind, tokens = file.fields.get(f"{_KEY}.model"), file.fields.get(f"{_KEY}.tokens")
    if kind is None or not isinstance(tokens, Strings):
        raise _wrong(file, "has no tokenizer (keys tokenizer.ggml.model and .tokens)")
    if kind not in _MODELS:
        raise _wrong(
            file, f"has a tokenizer of kind {kind!r}, which is not read; read: {', '.join(_MODELS)}"
        )
    pre = file.fields.get(f"{_KEY}.pre")
    if kind == "gpt2" and pre not in CUTS:
        raise _wrong(
            file,
            f"cuts texts in the way {pre!r} ({_KEY}.pre), which is not known here; known: "
            f"{', '.join(CUTS)}",
        )
    for name, needed in (("merges", kind == "gpt2"), ("scores", kind == "llama")):
        if needed and f"{_KEY}.{name}" not in file.fields:
            raise _wrong(file, f"lacks the key {_KEY}.{name}")
    for name in ("token_type", "scores"):
        given = file.fields.get(f"{_KEY}.{name}")
        if given is not None and (not isinstance(given, list) or len(given) != len(tokens)):
            raise _wrong(file, f"has a {_KEY}.{name} that does not fit its {len(tokens)} tokens")


def _wrong(file: GgufFile, what: str) -> ModelError:
    return ModelError(f"{file.path} {what}. Use the model's safetensors and tokenizer.json.")


def build_tokenizer(file: GgufFile) -> Any:
    """transformers' tokenizer with the file's tokens, cuts, added tokens and chat template.

    Raises ModelError where `check_tokenizer` does, and for tokens that contradict each other.
    """
    from transformers import PreTrainedTokenizerFast

    check_tokenizer(file)
    fields = file.fields
    tokens = list(fields[f"{_KEY}.tokens"])
    if len(set(tokens)) < len(tokens):
        raise _wrong(file, f"has one token twice in {_KEY}.tokens")
    kinds = fields.get(f"{_KEY}.token_type") or [1] * len(tokens)
    byte_level = fields[f"{_KEY}.model"] == "gpt2"
    try:
        made = _byte_level(file, tokens) if byte_level else _sentencepiece(file, tokens, kinds)
    except (ValueError, KeyError, TypeError) as error:
        raise _wrong(file, f"has a tokenizer that cannot be built ({error})") from error
    _add_tokens(made, tokens, kinds)
    named = {
        f"{name}_token": tokens[at]
        for name in ("bos", "eos", "unk", "pad")
        if isinstance(at := fields.get(f"{_KEY}.{_ID.get(name, name)}_token_id"), int)
        and 0 <= at < len(tokens)
    }
    adds_bos = fields.get(
        f"{_KEY}.add_bos_token", fields.get(f"{_KEY}.pre") in _WHOLE_WORDS or not byte_level
    )
    if adds_bos and "bos_token" in named:
        _begin_with(made, named["bos_token"], tokens)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **named)
    template = fields.get("tokenizer.chat_template")
    if isinstance(template, str):
        tokenizer.chat_template = template
    return tokenizer


_ID = {"unk": "unknown", "pad": "padding"}  # as the keys call them


def _byte_level(file: GgufFile, tokens: Sequence[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pre = file.fields[f"{_KEY}.pre"]
    merges = [tuple(one.split(" ", 1)) for one in file.fields[f"{_KEY}.merges"]]
    model = models.BPE(
        {token: at for at, token in enumerate(tokens)},
        merges,
        ignore_merges=pre in _WHOLE_WORDS,
    )
    made = Tokenizer(model)
    cuts = [pre_tokenizers.Split(Regex(one), "isolated") for one in CUTS[pre]]
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(file: GgufFile, tokens: Sequence[str], kinds: Sequence[int]) -> Any:
    """SentencePiece's BPE joins the two neighbours whose joint piece has the best score."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores: Sequence[float] = file.fields[f"{_KEY}.scores"]
    at = {token: number for number, token in enumerate(tokens) if kinds[number] not in _APART}
    merges = []
    for piece, number in at.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in at and right in at:
                merges.append((scores[number], at[left], at[right], left, right))
    merges.sort(key=lambda one: (-one[0], one[1], one[2]))
    unknown = next((t for t, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN), None)
    model = models.BPE(
        {token: number for number, token in enumerate(tokens)},
        [one[3:] for one in merges],
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    made = Tokenizer(model)
    prefix = file.fields.get(f"{_KEY}.add_space_prefix", True)
    steps = [normalizers.Prepend(_SPACE)] if prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    ends = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*ends, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return made


_APART = (_CONTROL, _UNKNOWN, _BYTE)  # kinds that no merge makes


def _add_tokens(made: Any, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Tokens that are found in a text before it is cut."""
    from tokenizers import AddedToken

    for wanted, special in ((_CONTROL, True), (_USER, False)):
        some = [t for t, kind in zip(tokens, kinds, strict=True) if kind == wanted and t]
        added = [AddedToken(token, normalized=False, special=special) for token in some]
        (made.add_special_tokens if special else made.add_tokens)(added)


def _begin_with(made: Any, bos: str, tokens: Sequence[str]) -> None:
    from tokenizers import processors

    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, tokens.index(bos))],
    )


def save_tokenizer(file: GgufFile, directory: Path) -> None:
    """Write a file's tokenizer into a directory, as transformers reads it."""
    build_tokenizer(file).save_pretrained(directory)
