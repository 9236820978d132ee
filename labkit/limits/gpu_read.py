"""A streaming read on a GPU, in Triton: every block loads its pieces and adds them up.

Importing this raises ImportError where Triton is not installed; torch's CUDA builds bring it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 8192  # int32 that a program loads at a time: four loads of 16 bytes a thread
_WARPS = 16
_PROGRAMS = 4  # of each multiprocessor
_LARGEST = 2**31  # int32 that one buffer may hold: offsets are of 32 bits


# Without `do_not_specialize`, some numbers of repeats would be compiled anew, while they are timed.
@triton.jit(do_not_specialize=["repeats"])  # type: ignore[untyped-decorator,unused-ignore]
def _read(pointer, out, size, repeats, block: tl.constexpr):  # type: ignore[no-untyped-def]
    first, step = tl.program_id(0) * block, tl.num_programs(0) * block
    total = tl.zeros([block], tl.int32)
    for _ in range(repeats):
        for start in range(first, size, step):
            at = start + tl.arange(0, block)
            total += tl.load(pointer + at, mask=at < size, other=0)
    tl.store(out + first + tl.arange(0, block), total)


def streaming_reader(data: Tensor) -> Callable[[int], None] | None:
    """A function that queues so many reads of a buffer; None for a buffer that is too large."""
    words = data.view(torch.int32)
    if words.numel() >= _LARGEST:
        return None
    programs = _PROGRAMS * torch.cuda.get_device_properties(data.device).multi_processor_count
    out = torch.empty(programs * _BLOCK, dtype=torch.int32, device=data.device)

    def read(times: int) -> None:
        # One launch for many reads: a small buffer is read in less time than a launch takes.
        _read[(programs,)](words, out, words.numel(), times, block=_BLOCK, num_warps=_WARPS)

    return read
