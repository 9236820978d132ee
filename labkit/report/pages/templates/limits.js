// The arithmetic of labkit.limits (cost.py, roofline.py, hardware.py, question.py) once more, for a
// page that has no Python. A test asks both 10,000 questions and holds their answers equal.
// Units: bytes, FLOPs, seconds, tokens. What is not known or never happens is Infinity.
const limits = (function () {
  "use strict";

  function sum(numbers) {
    return numbers.reduce(function (total, one) { return total + one; }, 0);
  }

  // How many experts of each mixture a pass of so many rows is expected to read.
  function expertsRead(shape, rows) {
    if (!shape.experts) return 0;
    const count = shape.experts.count, used = shape.experts.used;
    return count - (count - used) * Math.pow(1 - used / count, rows - 1);
  }

  // Weights of the matrices of all layers; experts: so many of each mixture.
  function layerWeights(shape, experts) {
    const queries = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
    const attention = shape.layers * shape.hidden_size * (2 * queries + 2 * kv);
    const sparse = shape.experts ? shape.experts.layers : 0;
    const dense = 3 * (shape.layers - sparse) * shape.hidden_size * shape.intermediate_size;
    if (!sparse) return attention + dense;
    const routers = sparse * shape.hidden_size * shape.experts.count;
    return attention + dense + routers + 3 * sparse * experts * shape.hidden_size * shape.experts.size;
  }

  // Norm weights and biases; the flags of a shape are 0 or 1.
  function vectors(shape) {
    const queries = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
    const normed = shape.qk_norm_whole ? queries + kv : 2 * shape.head_dim;
    const layer = 2 * shape.hidden_size * (shape.pre_norms + shape.post_norms) +
      (queries + 2 * kv) * shape.attention_bias + shape.hidden_size * shape.output_bias +
      (2 * shape.intermediate_size + shape.hidden_size) * shape.mlp_bias + normed * shape.qk_norm;
    return layer * shape.layers + shape.hidden_size;
  }

  function table(shape) { return shape.vocab_size * shape.hidden_size; }

  // Without `experts`, all of them count.
  function parameters(shape, experts) {
    const counted = experts === undefined && shape.experts ? shape.experts.count : experts || 0;
    const tables = shape.tied_head ? 1 : 2;
    return layerWeights(shape, counted) + tables * table(shape) + vectors(shape);
  }

  // Weights that a pass reads, without what it looks up in an untied table.
  function readParameters(shape, rows) {
    return parameters(shape, expertsRead(shape, rows)) - (shape.tied_head ? 0 : table(shape));
  }

  function kvBytes(shape, element) {
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * element;
  }

  // Positions of the cache that a new row reads, as a mean over the layers. windows: pairs of a
  // window (null: none) and the number of layers that have it.
  function positionsRead(shape, before) {
    return sum(shape.windows.map(function (pair) {
      return pair[1] * (pair[0] === null ? before : Math.min(before, pair[0] - 1));
    })) / shape.layers;
  }

  // Positions that `rows` rows after `before` others see in a layer, their own included.
  function seen(window, before, rows) {
    const every = rows * before + rows * (rows + 1) / 2;
    if (window === null) return every;
    const beyond = Math.max(0, before + rows - window), first = Math.max(0, before - window);
    return every - (beyond * (beyond + 1) - first * (first + 1)) / 2;
  }

  // A pass of `sequences` sequences that have `before` tokens and bring `rows` new ones each.
  function passCost(shape, before, rows, sequences, element, kvElement) {
    const all = rows * sequences, lookedUp = shape.tied_head ? 0 : all * shape.hidden_size;
    const matrices = all * layerWeights(shape, expertsRead(shape, 1)) + sequences * table(shape);
    const positions = sum(shape.windows.map(function (pair) {
      return pair[1] * seen(pair[0], before, rows);
    }));
    const weights = (readParameters(shape, all) + lookedUp) * element;
    const kv = sequences * positionsRead(shape, before) * kvBytes(shape, kvElement);
    return {
      weights: weights,
      kv: kv,
      read: weights + kv,
      flops: 2 * matrices + 4 * shape.heads * shape.head_dim * sequences * positions,
    };
  }

  // Bytes/s of reading a set again and again, between the measured sizes over the logarithm of the
  // size. machine.reads: pairs of a size and its rate, the smallest size first.
  function bandwidth(machine, set) {
    const reads = machine.reads, at = Math.log(Math.max(set, 1));
    if (at <= Math.log(reads[0][0])) return reads[0][1];
    for (let i = 1; i < reads.length; i += 1) {
      const low = Math.log(reads[i - 1][0]), high = Math.log(reads[i][0]);
      if (at <= high) {
        return reads[i - 1][1] + (reads[i][1] - reads[i - 1][1]) * (at - low) / (high - low);
      }
    }
    return reads[reads.length - 1][1];
  }

  // Whether a set fits a last-level cache whose bandwidth nobody printed or measured.
  function inCache(machine, set) {
    return !machine.measured && machine.reads.length === 1 && set <= machine.cache;
  }

  // The dtype whose rate stands for that of products in `dtype`; null where none is known.
  function multiplied(machine, dtype) {
    const known = [dtype, "bfloat16", "float32"].filter(function (one) { return one in machine.rates; });
    return known.length ? known[0] : null;
  }

  function rate(machine, dtype) {
    const known = multiplied(machine, dtype);
    return known === null ? Infinity : machine.rates[known];
  }

  // The least time of a pass that reads or makes so many tokens, and what sets it.
  function phase(tokens, cost, machine, dtype) {
    const cached = inCache(machine, cost.read);
    const memory = cached ? 0 : cost.read / bandwidth(machine, cost.read);
    const compute = cost.flops / rate(machine, dtype), seconds = Math.max(memory, compute);
    return {
      tokens: tokens,
      read: cost.read,
      flops: cost.flops,
      seconds: seconds,
      bound: memory >= compute ? "memory" : "compute",
      rate: seconds ? tokens / seconds : Infinity,
      cached: cached,
    };
  }

  // The batch from which a step is compute bound; one: the cost of a step of one sequence.
  function criticalBatch(shape, machine, dtype, one) {
    let batch = 1, before = 0;
    while (batch > 1.001 * before) {
      before = batch;
      const more = shape.experts ? readParameters(shape, before) / readParameters(shape, 1) : 1;
      const weights = one.weights * more;
      const speed = bandwidth(machine, weights + before * one.kv);
      const spare = one.flops / rate(machine, dtype) - one.kv / speed;
      if (spare <= 0) return Infinity;
      batch = weights / speed / spare;
    }
    return batch;
  }

  // What a million tokens of a phase cost at least, at a price of an hour.
  function million(price, of) { return price / 3600 / of.rate * 1e6; }

  // asked: dtype, kv_dtype, batch, context and prompt_tokens. elements: bytes of a number, by dtype.
  function answer(shape, machine, asked, elements) {
    const element = elements[asked.dtype], kvElement = elements[asked.kv_dtype];
    const weights = parameters(shape) * element, sequence = kvBytes(shape, kvElement) * asked.context;
    const prompt = passCost(shape, 0, asked.prompt_tokens, 1, element, element);
    const step = passCost(shape, asked.context, 1, asked.batch, element, kvElement);
    const one = passCost(shape, asked.context, 1, 1, element, kvElement);
    const room = Math.floor((machine.capacity - weights) / sequence);
    const largest = machine.capacity ? Math.max(room, 0) : Infinity;
    return {
      weights: weights,
      kv: sequence * asked.batch,
      prefill: phase(asked.prompt_tokens, prompt, machine, asked.dtype),
      decode: phase(asked.batch, step, machine, asked.dtype),
      critical_batch: criticalBatch(shape, machine, asked.dtype, one),
      largest_batch: largest,
      fits: asked.batch <= largest,
    };
  }

  return {
    answer: answer,
    bandwidth: bandwidth,
    kvBytes: kvBytes,
    million: million,
    multiplied: multiplied,
    parameters: parameters,
  };
})();
