"""The study of notebook 01: how does a benchmark mislead, and how is it done properly?

Six ways in which a simple benchmark misleads, each measured on this machine. Then an interleaved
comparison whose true result is known, because one variant is slowed down by a known amount. Its
rounds also tell how a turn is best held against the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from labkit.engine.generate import generate
from labkit.limits.cost import Cost, decode_cost
from labkit.limits.work import BareRead
from labkit.model.decoder import Decoder
from labkit.model.load import build
from labkit.model.rows import Rows
from labkit.quality.lossless import SameAnswer, same_answer
from labkit.report.told import decoders
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.studies import pitfalls
from labkit.studies import timing_figures as figures
from labkit.studies import timing_held as held
from labkit.studies import timing_planted as planted
from labkit.studies import timing_sentences as sentences
from labkit.studies import timing_tables as tables
from labkit.studies.lab import Lab
from labkit.timing.compare import Comparison
from labkit.timing.statistics import warm_up
from labkit.timing.trace import Trace, record

PLAIN = "plain decoder"
LENGTHS = (1, 2, 4, 8, 16)  # new tokens of the answers in section 5
COLD_CALLS, LONGEST_CUT = 24, 5  # of a fresh model; the most warm-up calls that section 3 drops
BLOCK = 10  # samples of a variant in section 6
FEWEST_IN_SERIES = 2 * BLOCK + LONGEST_CUT


@dataclass
class Study:
    """The experiment; the fields are the notebook's parameters."""

    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    prompt_tokens: int = 64
    new_tokens: int = 12
    series: int = 160  # repetitions of one and the same pass, to look at the machine itself
    slowdown: float = 0.1  # planted, to be found again
    rounds: int = 20

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "01_timing", "timing", self.model, self.device, self.dtype,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
            parameters=vars(self),
        )  # fmt: skip
        self.prompt = self.lab.prompt(0)
        self.short = Rows.prefill(self.prompt[:16])
        self.slowed = f"slowed by {self.slowdown:.0%}"
        self.looks: dict[float, float] = {}  # seconds of a short read before a turn, by its start

    def one_pass(self, decoder: Decoder | None = None) -> Tensor:
        """The work that sections 1 to 4 time: one pass over a short prompt."""
        decoder = decoder or self.lab.decoder
        return decoder(self.short, decoder.new_cache(1, len(self.short)))

    @cached_property
    def naive(self) -> list[float]:
        """Seconds that the naive benchmark claims, five times; each prints its own line."""
        return [pitfalls.naive_benchmark() for _ in range(5)]

    def first_benchmark(self) -> None:
        """Run the naive benchmark."""
        assert self.naive

    def nothing_is_computed(self) -> None:
        """Section 1: show what the naive benchmark timed, beside a real pass."""
        work = f"a real pass of {self.lab.loaded.name} over {len(self.short)} tokens"
        real = float(np.median(pitfalls.samples(self.one_pass, 9, self.lab.device)[2:]))
        table(tables.identity(self.naive, work, real))
        say(sentences.naive(self.naive, real))

    @cached_property
    def cold(self) -> list[float]:
        """Seconds of the first calls of a freshly loaded model."""
        lab = self.lab
        fresh = build(lab.loaded.directory, lab.device, lab.decoder.dtype)
        return pitfalls.samples(partial(self.one_pass, fresh), COLD_CALLS, lab.device)

    def no_warm_up(self) -> None:
        """Section 2: show how long the first calls take, and whether any was warm-up."""
        cut = warm_up(self.cold)
        told = sentences.warm_up(self.cold, cut)
        figures.first_calls(self.cold, cut, told)
        say(told)

    @cached_property
    def steady(self) -> list[float]:
        """Seconds of one and the same pass again and again, the warm-up left out."""
        cut = max(1, min(warm_up(self.cold), LONGEST_CUT))
        return pitfalls.samples(self.one_pass, self.series, self.lab.device)[cut:]

    def one_sample(self) -> None:
        """Section 3: show how far samples of the same work lie apart."""
        told = sentences.one_sample(self.steady)
        figures.repetitions(self.steady, f"{len(self.steady)} repetitions of one pass. {told}")
        say(told)

    def not_waiting(self) -> None:
        """Section 4: show when work is handed over, and when it is done."""
        pairs = [pitfalls.queued_and_done(self.one_pass, self.lab.device) for _ in range(9)]
        queued, done = np.median(pairs, axis=0)
        say(sentences.not_waiting(float(queued), float(done)))

    @cached_property
    def answers(self) -> dict[int, Trace]:
        """Answers of several lengths after the same prompt, one trace each."""
        lab, prompt = self.lab, self.prompt
        return {
            n: record(partial(generate, lab.decoder, prompt, n), len(prompt), lab.device)
            for n in LENGTHS
        }

    def one_number(self) -> None:
        """Section 5: show that total time over tokens depends on the length of the answer."""
        table(
            tables.lengths(self.answers),
            caption=f"The same model after {self.prompt_tokens} prompt tokens: the column "
            '"total / tokens" depends on how long the answer is',
        )
        figures.one_trace(self.answers[LENGTHS[-1]])

    @cached_property
    def claims(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Speedups claimed for no change at all: timed in blocks, and interleaved."""
        return (
            pitfalls.block_ratios(self.steady, BLOCK),
            pitfalls.interleaved_ratios(self.steady, BLOCK),
        )

    def drift(self) -> None:
        """Section 6: show what is claimed when the baseline is timed at another time."""
        blocks, interleaved = self.claims
        figures.false_claims(
            blocks,
            interleaved,
            "Histograms of the speedups found where nothing changed: in blocks, and interleaved.",
        )
        say(sentences.drift(blocks, interleaved))

    @cached_property
    def same(self) -> SameAnswer:
        """The tokens of the slowed stream against those of the plain one."""
        decoder, count = self.lab.decoder, self.new_tokens
        plain = list(generate(decoder, self.prompt, count))
        late = list(pitfalls.slowed(generate(decoder, self.prompt, count), self.slowdown))
        return same_answer(decoder, self.prompt, plain, late)

    def same_answer(self) -> None:
        """Show that the slowdown changes no token; AssertionError where it does."""
        say(f"**{self.same}**")
        assert self.same.lossless, self.same

    def predict(self) -> None:
        """Say what the comparison should find, before it is made."""
        say(planted.prediction(self.slowdown))

    @property
    def cost(self) -> Cost:
        """What one token in the middle of an answer must cost."""
        return decode_cost(self.lab.config, self.lab.middle, dtype=self.lab.dtype)

    @cached_property
    def comparison(self) -> Comparison:
        """The plain decoder and the slowed one, interleaved. Each turn has a short read before it,
        and each round a bare read that lasts as long as a turn."""
        lab = self.lab
        work = BareRead(self.cost.read_bytes, lab.device, lab.hardware.threads)
        work.repeat(1)
        runs = {
            name: held.looking_first(
                pitfalls.slowed_decoding(lab.loaded, share, self.prompt_tokens, self.new_tokens),
                work,
                self.looks,
            )
            for name, share in ((PLAIN, 0.0), (self.slowed, self.slowdown))
        }
        costs = {(name, "decode"): self.cost for name in runs}
        found = lab.compare(runs, PLAIN, self.rounds, costs)
        looks = {"looks": [list(pair) for pair in self.looks.items()]}
        lab.keep_samples("comparison", found.to_dict() | looks)
        decoders.keep(lab.notebook, {decoders.plain(lab.dtype): PLAIN}, found)
        return found

    def measure(self) -> None:
        """Make the comparison."""
        say(f"{self.comparison.rounds} rounds of each variant.")

    def against_control(self) -> None:
        """Show the slowed variant and the control against the baseline."""
        found, names = self.comparison, (self.slowed, self.comparison.control)
        table(
            tables.variants(found, (PLAIN, *names)), caption=f"{found.rounds} rounds, interleaved"
        )
        figures.paired({name: found.speedup(name) for name in names})

    def verdict_rules(self) -> None:
        """Show, rule by rule, what a verdict about the slowed variant needs and has."""
        table(
            planted.verdict_rules(self.comparison, self.slowed),
            caption=f"A verdict about {self.slowed}",
        )

    def rounds_to_see(self) -> None:
        """Show how many rounds a change needs to be seen on this machine."""
        control = self.comparison.speedup(self.comparison.control)
        needed = planted.rounds_for(control)
        table(
            tables.rounds(needed, self.comparison.rounds),
            caption="Rounds in which a change is seen 19 times in 20, by the control's ratios",
        )
        say(planted.told_noise(control, needed[0.05]))

    def estimators(self) -> None:
        """Show which estimator gives the narrowest interval of the share of the bare read."""
        if (bare := held.bare(self.comparison)) is not None:
            found = held.estimates(bare.seconds, self.comparison.values(PLAIN))
            table(
                held.estimate_rows(found),
                caption=f"{PLAIN}: its share of the {bare.name}, by three estimators",
            )
            say(held.told_estimates(found, self.comparison.rounds))

    def short_look(self) -> None:
        """Show whether a short read before a turn says what a read as long as a turn says."""
        if (bare := held.bare(self.comparison)) is not None:
            found = held.against(self.comparison, bare, self.looks)
            table(held.against_rows(found), caption=f"The turns of the {PLAIN}, round by round")
            say(held.told_against(found))

    def why(self) -> None:
        """Tell how far the measured speedup lies from the predicted one."""
        say(planted.outcome(self.comparison, self.slowed, self.slowdown))

    def findings(self) -> list[Finding]:
        """Save what was found, and show it."""
        found, quality = self.comparison, self.same.quality()
        return self.lab.save(
            [
                self.lab.finding(found, name, metric="tpot", cost=self.cost, quality=quality)
                for name in (self.slowed, found.control)
            ]
        )


def run(**parameters: Any) -> list[Finding]:
    """The whole study, section after section; parameters: fields of Study."""
    study = Study(**parameters)
    study.first_benchmark()
    study.nothing_is_computed()
    study.no_warm_up()
    study.one_sample()
    study.not_waiting()
    study.one_number()
    study.drift()
    study.same_answer()
    study.predict()
    study.measure()
    study.against_control()
    study.verdict_rules()
    study.rounds_to_see()
    study.estimators()
    study.short_look()
    study.why()
    return study.findings()
