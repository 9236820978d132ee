"""`labkit.fastest`: a model that answers one prompt after another by the fastest path here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.base.device import Device
from labkit.base.units import shown
from labkit.engine.accounting import Accounting
from labkit.engine.control import Adaptive
from labkit.engine.row_costs import RowCosts
from labkit.engine.sequence import Decoding, check_prompt
from labkit.engine.speculate import Speculation
from labkit.errors import ModelError, ParameterError
from labkit.fast.chosen import Chosen, Tell, choose
from labkit.fast.costs import kept_costs
from labkit.fast.slot import Slot
from labkit.fast.stream import Asked, Stream
from labkit.limits.hardware import Hardware
from labkit.limits.measure import kept_hardware, measure_hardware
from labkit.limits.of_decoder import decoder_cost
from labkit.limits.roofline import least_seconds
from labkit.limits.told import told_disturbed
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.sampling import Sample, Sampler
from labkit.optimize.speculative.suffix import SuffixIndex
from labkit.workload.prompts import text_ids

CONTEXT = 4096  # tokens of a prompt with its answer, at most
MAX_TOKENS = 256


class Fastest:
    """Answers prompts, one at a time. A new stream ends the one before.

    Its greedy answers are those of plain decoding: drafts are verified, and the prefix cache holds
    what the same tokens gave. With the fused decoder that is so to the bit; with the plain one, up
    to ties within rounding. costs: of rows, by which the length of drafts is chosen; None: no
    drafts. hardware: this machine as measured; None: the measurement that is kept, if any.
    """

    def __init__(
        self,
        chosen: Chosen,
        costs: RowCosts | None = None,
        context: int = CONTEXT,
        hardware: Hardware | None = None,
    ) -> None:
        if context < 2:
            raise ParameterError(f"a context of {context} tokens: at least 2 are needed.")
        self.chosen, self.costs, self._hardware = chosen, costs, hardware
        self.context = min(context, self.config.max_positions)
        self._slot = Slot(chosen.decoder, self.context, chosen.torch_threads)
        self._index = SuffixIndex()
        self._current: Stream | None = None

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self.chosen.decoder.config

    @property
    def hardware(self) -> Hardware | None:
        """This machine as measured; None while no measurement is kept. It measures nothing."""
        if self._hardware is None:
            self._hardware = kept_hardware(self.chosen.device, self._hardware_threads)
        return self._hardware

    @property
    def _hardware_threads(self) -> int | None:
        return self.chosen.threads if self.chosen.device.type == "cpu" else None

    def stream(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = MAX_TOKENS,
        *,
        chat: bool | None = None,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Stream:
        """An iterator over the pieces of an answer's text; its `result` has the figures.

        prompt: a text, or token ids as they are. chat: whether a text goes into the model's chat
        template; None: if it has one. stop: texts that end the answer and are not shown.
        temperature: 0 is greedy; the others as Sampler takes them. Raises at the call: ModelError
        for lengths that do not fit, ParameterError for settings that make no sense.
        """
        began = time.perf_counter()
        self.close()
        sampler = Sampler(temperature, top_k, top_p, seed)
        tokenizer = self.chosen.tokenizer
        text = isinstance(prompt, str)
        ids = text_ids(tokenizer, prompt, chat) if isinstance(prompt, str) else list(prompt)
        if chat is not None and not text:
            raise ParameterError("chat is for a text; token ids are taken as they are.")
        self._check(ids, max_tokens)
        account = None if self.costs is None else Accounting(self.costs)

        def make(cache: Cache) -> Decoding:
            return self._request(cache, ids, max_tokens, sampler, account)

        asked = Asked(ids, make, account, stop, tokenizer, self._least, began)
        self._current = Stream(self._slot, asked)
        return self._current

    def close(self) -> None:
        """End the stream that is open, if any."""
        if self._current is not None:
            self._current.close()
            self._current = None

    def _check(self, ids: Sequence[int], max_tokens: int) -> None:
        whole = isinstance(max_tokens, int) and not isinstance(max_tokens, bool)
        if not whole:
            raise ParameterError(f"max_tokens {shown(max_tokens)}: a whole number is needed.")
        check_prompt(self.config, ids, max_tokens)
        if len(ids) + max_tokens > self.context:
            raise ModelError(
                f"{len(ids)} prompt tokens and {max_tokens} new ones make more than the "
                f"{self.context} that there is room for: ask for fewer, or give a larger context."
            )

    def _request(
        self,
        cache: Cache,
        ids: Sequence[int],
        most: int,
        sampler: Sample,
        account: Accounting | None,
    ) -> Decoding:
        stops = self.config.eos_ids
        if self.costs is None or account is None:
            return Decoding(cache, ids, most, sampler=sampler, stop_ids=stops)
        return Speculation(
            cache, ids, most, self._index, Adaptive(self.costs), vocab=self.config.vocab_size,
            accounting=account, sampler=sampler, stop_ids=stops,
        )  # fmt: skip

    def _least(self, passes: Mapping[int, int], context: int) -> float | None:
        """Seconds that passes take at least, by their rows, after so many tokens."""
        hardware, chosen = self.hardware, self.chosen
        if hardware is None:
            return None
        attention = "float32" if chosen.products else ""
        return sum(
            count
            * least_seconds(
                decoder_cost(chosen.decoder, context, rows, chosen.dtype, chosen.products),
                hardware,
                attention,
            )
            for rows, count in passes.items()
        )

    def __repr__(self) -> str:
        threads = "" if self._hardware_threads is None else f", {_threads(self.chosen.threads)}"
        drafts = "off" if self.costs is None else "on"
        return (
            f"<labkit.fastest: {self.chosen.model}, {self.chosen.name}{threads}, drafts {drafts}, "
            f"prefix cache on, up to {self.context:,} tokens>"
        )


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def fastest(
    model: str | Path | None = None,
    *,
    device: Device = "auto",
    threads: int | None = None,
    weights: str = "",
    drafts: bool = True,
    context: int = CONTEXT,
    measure: bool = False,
    tell: Tell = print,
) -> Fastest:
    """The fastest path that this machine has for one stream: the fused decoder, drafts that copy
    from the prompt and from earlier answers, and a prefix cache.

    What this machine or this model cannot have is left out, and `tell` gets one line that says so.

        fast = labkit.fastest()
        for piece in (answer := fast.stream("Why is the sky blue?")):
            print(piece, end="", flush=True)
        print(answer.result)

    model: a directory, a GGUF file or a hub id; None for the built-in model. threads: of the CPU,
    by default one for each core that this process gets. weights: as `choose` takes them. context:
    the most tokens of a prompt with its answer. measure: measure this machine, unless a measurement
    is kept; without it nothing is measured for the limit. The first call for a model measures what
    drafts cost, and says so. Raises LabkitError for what cannot be.
    """
    chosen = choose(model, device, threads, weights, tell)
    costs = kept_costs(chosen, tell) if drafts else None
    made = Fastest(chosen, costs, context)
    if measure and made.hardware is None:
        made = Fastest(chosen, costs, context, _measured(made, tell))
    return made


def _measured(fast: Fastest, tell: Tell) -> Hardware:
    tell("Measuring this machine once, for its limit, which takes less than a minute ...")
    found = measure_hardware(fast.chosen.device, fast._hardware_threads)
    if disturbed := told_disturbed(found):
        tell(disturbed)
    return found
