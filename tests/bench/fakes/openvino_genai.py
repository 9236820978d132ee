"""OpenVINO GenAI, as far as the driver uses it; LAST is the pipeline made last."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import openvino
import toy

END = 7  # the model's own end of sequence
LAST: list[Any] = []
StreamingStatus = SimpleNamespace(RUNNING="running", STOP="stop")


class StreamerBase:
    """What a streamer of the user's own is made from."""


class SchedulerConfig:
    def __init__(self) -> None:
        self.enable_prefix_caching, self.cache_size = True, 0


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
