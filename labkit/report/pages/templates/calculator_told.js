// The calculator's answer in words: those of `labkit limit` (limits/answer_told.py, base/units.py).
// A question has `asked`, `shape`, `machine` and `name`, as calculator.js reads them.
const told = (function () {
  "use strict";

  // 12.345 -> 12.3, as Python's .3g writes it.
  function three(value) {
    const short = Number(value.toPrecision(3));
    if (short && short < 1e-4) return short.toExponential().replace(/e-(\d)$/, "e-0$1");
    return String(short);
  }

  function counted(value) { return value.toLocaleString("en-US", { maximumFractionDigits: 0 }); }

  function number(value) { return value >= 99.95 ? counted(value) : three(value); }

  function scaled(value, unit) {
    const prefixes = ["", "k", "M", "G", "T", "P"];
    let step = 0;
    while (value >= 999.5 && step < prefixes.length - 1) { value /= 1000; step += 1; }
    return three(value) + " " + prefixes[step] + unit;
  }

  function lasting(seconds) {
    if (seconds >= 999.5) return counted(seconds) + " s";
    const units = [[1, "s"], [1e3, "ms"], [1e6, "µs"]];
    const unit = units.find(function (one) { return seconds * one[0] >= 1; }) || [1e9, "ns"];
    return three(seconds * unit[0]) + " " + unit[1];
  }

  function rate(of) { return of.seconds ? number(of.rate) + " tok/s" : "no limit known"; }

  // The cells of a phase: reads, computes, least time, at most, set by.
  function cells(of) {
    const time = of.seconds ? lasting(of.seconds) : "–", bound = of.seconds ? of.bound : "–";
    return [scaled(of.read, "B"), scaled(of.flops, "FLOP"), time, rate(of), bound];
  }

  function lead(found, question) {
    const on = question.machine.name, batch = question.asked.batch;
    if (!found.fits) {
      return question.name + " does not fit " + on + ": it needs " +
        scaled(found.weights + found.kv, "B") + " of memory, and there are " +
        scaled(question.machine.capacity, "B") + ".";
    }
    const several = batch > 1 && found.decode.seconds;
    const each = several ? ", " + number(found.decode.rate / batch) + " a sequence" : "";
    return question.name + " on " + on + ", at most: decode " + rate(found.decode) + each +
      ", prefill " + rate(found.prefill) + ".";
  }

  function memory(found, question) {
    const size = question.machine.capacity, most = counted(found.largest_batch);
    const at = " at a context of " + counted(question.asked.context) + ".";
    const need = "weights " + scaled(found.weights, "B") + " + KV cache " + scaled(found.kv, "B") +
      " = " + scaled(found.weights + found.kv, "B");
    if (!size) return need + "; the size of the machine's memory is not known.";
    const of = need + " of " + scaled(size, "B") + ": ";
    if (found.fits) return of + "it fits, up to a batch of " + most + at;
    if (found.largest_batch) return of + "it does not fit; a batch of " + most + " does" + at;
    return of + "it does not fit, at no batch.";
  }

  function cached(found, question) {
    return "in " + question.asked.dtype + ", its weights and KV cache (" +
      scaled(found.decode.read, "B") + ") fit the " + scaled(question.machine.cache, "B") +
      " last-level cache, whose bandwidth the vendor does not print: no limit from memory.";
  }

  // From which batch on decoding is compute bound, or why no batch is.
  function turn(found, question) {
    const dtype = question.asked.dtype, known = limits.multiplied(question.machine, dtype);
    if (found.decode.cached) return cached(found, question);
    if (known === null) {
      return "no rate of products in " + dtype + " is known: the limits count reading alone.";
    }
    const by = "(" + dtype + (known === dtype ? "" : ", at the rate of " + known + " products") + ")";
    const decoding = "decoding at a context of " + counted(question.asked.context) + " is ";
    if (found.critical_batch === Infinity) {
      return decoding + "memory bound at every batch " + by + ": to read the KV cache of a " +
        "sequence takes longer than to compute its row.";
    }
    return decoding + "compute bound, not memory bound, from a batch of " +
      number(found.critical_batch) + " on " + by + ".";
  }

  function cost(found, question) {
    const price = question.asked.price;
    if (price === null) return "give the price of an hour to see what a million tokens cost at least.";
    if (!found.decode.seconds || !found.prefill.seconds) return "no limit is known, and so no cost.";
    return "a million output tokens cost at least " + number(limits.million(price, found.decode)) +
      ", a million prompt tokens at least " + number(limits.million(price, found.prefill)) +
      ", at " + number(price) + " an hour.";
  }

  function model(question, elements) {
    const kv = limits.kvBytes(question.shape, elements[question.asked.kv_dtype]);
    return scaled(limits.parameters(question.shape), "").trim() + " parameters, " +
      counted(question.shape.layers) + " layers, " + scaled(kv, "B") + " of KV cache a token";
  }

  function machine(found, question) {
    const given = question.machine, known = limits.multiplied(given, question.asked.dtype);
    const bandwidth = scaled(limits.bandwidth(given, found.decode.read), "B/s");
    const multiplies = known === null ? "no rate of products is known"
      : "multiplies " + known + ": " + scaled(given.rates[known], "FLOP/s");
    return given.name + " reads " + scaled(found.decode.read, "B") + ": " + bandwidth + "; " +
      multiplies + ". " + given.source;
  }

  return {
    cells: cells,
    cost: cost,
    counted: counted,
    lead: lead,
    machine: machine,
    memory: memory,
    model: model,
    turn: turn,
  };
})();
