"""transformers' own model and `generate`: a baseline that everyone knows, and a check of ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labkit.model.load import LoadedModel

# Its speculation calls its own `generate` in a way that it calls deprecated. That is not the
# reader's doing, so this one warning is dropped; all others are shown.
_OF_ITS_OWN = "Passing `generation_config` together with generation-related arguments"


def _asked_for(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_OF_ITS_OWN)


def load_reference(model: LoadedModel) -> Any:
    """transformers' model of the same directory, dtype and device, as it comes."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    logging.getLogger("transformers.generation.utils").addFilter(_asked_for)
    reference: Any = AutoModelForCausalLM.from_pretrained(
        model.directory, dtype=model.decoder.dtype
    )
    # Its defaults may sample or stop; a comparison asks for greedy tokens and their full number.
    reference.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    return reference.eval().to(model.decoder.device)


class _Push:
    """A streamer that passes on each new token. `generate` puts the prompt first, and several
    tokens at once where it speculates."""

    def __init__(self, push: Callable[[int], None]) -> None:
        self._push, self._prompt_seen = push, False

    def put(self, value: Tensor) -> None:
        if self._prompt_seen:
            for token in value.reshape(-1).tolist():
                self._push(token)
        self._prompt_seen = True

    def end(self) -> None:
        """Every token is out already."""


@torch.inference_mode()
def reference_generate(
    reference: Any,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    push: Callable[[int], None],
    **how: Any,
) -> None:
    """Run `generate` greedily for exactly max_new_tokens, handing each token to `push`.

    how: more arguments of `generate`, such as prompt_lookup_num_tokens.
    """
    ids = torch.tensor([list(prompt_ids)], device=reference.device)
    reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        streamer=_Push(push),
        **how,
    )


@torch.inference_mode()
def reference_logits(reference: Any, ids: Sequence[int]) -> Tensor:
    """Logits of every position, (tokens, vocab) float32."""
    logits: Tensor = reference(torch.tensor([list(ids)], device=reference.device)).logits
    return logits[0].float()
