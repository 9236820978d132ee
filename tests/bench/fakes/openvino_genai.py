"""OpenVINO GenAI, as far as the driver uses it; LAST is the pipeline made last."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import openvino
import toy

END = 7  # the model's own end of sequence
BLOCK = 32  # positions of a block of the cache
LAST: list[Any] = []
StreamingStatus = SimpleNamespace(RUNNING="running", STOP="stop")


class StreamerBase:
    """What a streamer of the user's own is made from."""


class SchedulerConfig:
    def __init__(self) -> None:
        self.enable_prefix_caching, self.cache_size, self.num_kv_blocks = True, 0, 0


class GenerationConfig:
    def __init__(self) -> None:
        self.max_new_tokens, self.ignore_eos = 20, False
        self.do_sample, self.apply_chat_template = True, True


class LLMPipeline:
    """Greedy tokens, streamed by ones and twos; with a template or sampling it is not the toy."""

    def __init__(
        self, folder: str, device: str, scheduler_config: SchedulerConfig, **properties: Any
    ) -> None:
        self.device, self.scheduler, self.properties = device, scheduler_config, properties
        LAST[:] = [self]

    def generate(self, ids: openvino.Tensor, config: GenerationConfig, streamer: Any) -> None:
        assert not config.do_sample
        assert not config.apply_chat_template
        assert ids.data.dtype.name == "int64"
        tokens: list[int] = ids.data[0].tolist()
        toy.EVENTS.append(("rows", len(tokens)))
        end = len(tokens) + config.max_new_tokens
        while len(tokens) < end:
            new = toy.continuation(tokens, min(2 if len(tokens) % 3 == 0 else 1, end - len(tokens)))
            toy.EVENTS.append(("token", len(tokens)))
            tokens += new
            if streamer.write(new if len(new) > 1 else new[0]) != "running":
                break
            if END in new and not config.ignore_eos:
                break
        streamer.end()


class GenerationHandle:
    """The tokens of one request that nobody has read yet, by step."""

    def __init__(self, prompt: list[int], config: GenerationConfig) -> None:
        self.tokens, self.new, self.config = prompt, list[list[int]](), config
        self.left = config.max_new_tokens

    def can_read(self) -> bool:
        return bool(self.new)

    def read(self) -> dict[int, SimpleNamespace]:
        assert self.new, "the real one would wait for ever"
        return {0: SimpleNamespace(generated_ids=self.new.pop(0))}

    def step(self) -> None:
        found = toy.continuation(self.tokens, 1)
        self.tokens += found
        self.left -= 1
        if found[0] == END and not self.config.ignore_eos:
            self.left = 0
        self.new.append(found)


class ContinuousBatchingPipeline:
    """Each step reads the prompt of one request, and gives one token of each that is read."""

    def __init__(
        self, folder: str, scheduler: SchedulerConfig, device: str, properties: dict[str, Any]
    ) -> None:
        self.device, self.scheduler, self.properties = device, scheduler, properties
        self.waiting: list[GenerationHandle] = []
        self.running: list[GenerationHandle] = []
        self.numbers: set[int] = set()
        LAST[:] = [self]

    def add_request(
        self, number: int, ids: openvino.Tensor, config: GenerationConfig
    ) -> GenerationHandle:
        assert number not in self.numbers
        assert not config.do_sample
        assert not config.apply_chat_template
        assert ids.data.dtype.name == "int64"
        self.numbers.add(number)
        self.waiting.append(GenerationHandle(ids.data[0].tolist(), config))
        return self.waiting[-1]

    def has_non_finished_requests(self) -> bool:
        return bool(self.waiting or self.running)

    def step(self) -> None:
        self.running += self.waiting[:1]
        del self.waiting[:1]
        toy.EVENTS.append(("rows", len(self.running)))
        for handle in self.running:
            handle.step()
        held = sum(-(-len(handle.tokens) // BLOCK) for handle in self.running)
        assert held <= self.scheduler.num_kv_blocks, "a request would lose its place"
        self.running = [handle for handle in self.running if handle.left]
