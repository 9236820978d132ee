// The calculator's page: reads the fields, asks limits.js, and tells the answer by
// calculator_told.js. The question stands in the address, so that it can be sent on. What comes
// from an address is only ever compared, or set as text.
(function () {
  "use strict";
  const data = JSON.parse(at("data").textContent);
  const CHOICES = ["machine", "model", "dtype", "kv_dtype"];
  const COUNTS = ["batch", "context", "prompt_tokens"];
  const OWN = Object.keys(data.own); // all but one are numbers
  const SIZES = OWN.filter(function (id) { return id !== "tied_head" && !id.startsWith("expert"); });
  const EXPERTS = ["experts_used", "expert_size"];
  const EVERY = [...CHOICES, ...COUNTS, "price", ...OWN];
  const strange = {}; // what a link chose, by field: a menu cannot hold what it has not
  const counted = told.counted;
  let refused = [];

  function at(id) { return document.getElementById(id); }
  function say(id, text) { at(id).textContent = text; }
  function quoted(text) { return "“" + (text.length > 24 ? text.slice(0, 23) + "…" : text) + "”"; }

  // What was given cannot be used: one line beside its field, and no answer.
  function refuse(id, why) {
    refused.push(id);
    say(id + "-error", why);
    at(id).setAttribute("aria-invalid", "true");
    return null;
  }

  function clear(id) {
    say(id + "-error", "");
    at(id).removeAttribute("aria-invalid");
  }

  function choice(id) {
    if (at(id).selectedIndex >= 0) return at(id).value;
    return refuse(id, quoted(strange[id]) + " is not on this page: choose one.");
  }

  // The value if it is a number within what is allowed; else null.
  function ranged(id, text, value, kind) {
    const [least, most] = data.allowed[id];
    const rule = "give " + kind + " from " + String(least) + " to " + counted(most) + ".";
    if (!text) return refuse(id, "Nothing is given: " + rule);
    if (Number.isNaN(value)) return refuse(id, quoted(text) + " is not one: " + rule);
    if (value < least || value > most) return refuse(id, quoted(text) + " is not allowed: " + rule);
    return value;
  }

  function whole(id) {
    const text = at(id).value.trim(), fine = /^(\d+|\d{1,3}(,\d{3})+)$/.test(text);
    return ranged(id, text, fine ? Number(text.replace(/,/g, "")) : NaN, "a whole number");
  }

  function price() {
    const text = at("price").value.trim(), fine = /^(\d+(\.\d*)?|\.\d+)$/.test(text);
    if (!text) return null;
    return ranged("price", text, fine ? Number(text) : NaN, "a number, as in 2.50,");
  }

  function experts(layers) {
    const count = whole("experts");
    EXPERTS.forEach(function (id) { at(id).disabled = count === 0; });
    if (!count) return null;
    const [used, size] = EXPERTS.map(whole);
    if (used > count) {
      refuse("experts_used", counted(used) + " cannot be used: a layer has " + counted(count) + ".");
    }
    return { count: count, used: used, size: size, layers: layers };
  }

  // The shape whose numbers are typed in; null where one of them cannot be used.
  function own() {
    const shape = {
      attention_bias: 0, output_bias: 0, mlp_bias: 0, qk_norm: 0, qk_norm_whole: 0, pre_norms: 1,
      post_norms: 0, tied_head: Number(choice("tied_head")),
    };
    SIZES.forEach(function (id) { shape[id] = whole(id); });
    shape.experts = experts(shape.layers);
    shape.windows = [[null, shape.layers]];
    const heads = shape.heads, kv = shape.kv_heads;
    if (heads && kv && heads % kv) {
      refuse("kv_heads", counted(kv) + " do not divide " + counted(heads) + " heads: give a divisor.");
    }
    if (shape.head_dim % 2) {
      refuse("head_dim", counted(shape.head_dim) + " is odd: give an even number, for RoPE turns pairs.");
    }
    return refused.length ? null : shape;
  }

  function checkLengths(asked, shape) {
    const context = asked.context, prompt = asked.prompt_tokens;
    if (shape && context > shape.max_positions) {
      refuse("context", counted(context) + " are too many: the model has a context of " +
        counted(shape.max_positions) + ".");
    }
    if (context && prompt > context) {
      refuse("prompt_tokens", counted(prompt) + " are too many: the context of " +
        counted(context) + " holds the prompt.");
    }
  }

  // The question that the fields ask; null where one of them cannot be used.
  function read() {
    refused = [];
    EVERY.forEach(clear);
    const asked = { price: price() };
    CHOICES.forEach(function (id) { asked[id] = choice(id); });
    COUNTS.forEach(function (id) { asked[id] = whole(id); });
    const typed = asked.model === "own";
    at("own").hidden = !typed;
    const shape = typed ? own() : data.shapes[asked.model];
    checkLengths(asked, shape);
    if (refused.length) return null;
    const name = typed ? "This shape" : asked.model;
    return { asked: asked, shape: shape, machine: data.machines[asked.machine], name: name };
  }

  function row(id, title, more, of) {
    const line = at(id), cells = line.querySelectorAll("td span");
    line.firstElementChild.textContent = title;
    line.firstElementChild.appendChild(document.createElement("small")).textContent = more;
    told.cells(of).forEach(function (text, i) { cells[i].textContent = text; });
  }

  function tell(question) {
    const asked = question.asked, batch = asked.batch;
    const found = limits.answer(question.shape, question.machine, asked, data.elements);
    const step = batch > 1 ? "one step of " + counted(batch) + " sequences" : "one step of one sequence";
    row("prefill", "prefill " + counted(asked.prompt_tokens), "one prompt", found.prefill);
    row("decode", "decode at " + counted(asked.context), step, found.decode);
    ["lead", "memory", "turn", "cost", "machine"].forEach(function (what) {
      say(what === "machine" ? "about-machine" : what, told[what](found, question));
    });
    say("about-model", told.model(question, data.elements));
    document.querySelectorAll("#phases, .limited").forEach(function (one) { one.hidden = !found.fits; });
  }

  // The question as the part of an address from "#" on.
  function fragment() {
    const ids = at("own").hidden ? [...CHOICES, ...COUNTS, "price"] : EVERY;
    const pairs = ids.map(function (id) {
      return [id, at(id).selectedIndex === -1 ? strange[id] : at(id).value.trim()];
    });
    return "#" + new URLSearchParams(pairs.filter(function (pair) { return pair[1] !== ""; }));
  }

  function draw() {
    const question = read();
    at("answer").hidden = question === null;
    at("link").href = fragment();
    if (question) return tell(question);
    const names = new Set(refused.map(function (id) { return at(id).labels[0].textContent; }));
    return say("lead", "No answer: see beside " + [...names].join(", ") + ".");
  }

  // Fill the fields by the address; what it does not name, as the page was written.
  function load() {
    const given = new URLSearchParams(location.hash.slice(1));
    const opened = Object.assign({}, data.own, data.asked);
    EVERY.forEach(function (id) {
      const first = opened[id] === null ? "" : String(opened[id]);
      strange[id] = given.has(id) ? given.get(id) : first;
      at(id).value = strange[id];
    });
    const unknown = [...given.keys()].filter(function (id) { return !EVERY.includes(id); });
    at("note").hidden = !unknown.length;
    say("note", "The link asks for what this page does not know: " + unknown.map(quoted).join(", ") + ".");
    draw();
  }

  at("calculator").addEventListener("input", function () {
    draw();
    history.replaceState(null, "", fragment());
  });
  window.addEventListener("hashchange", load);
  at("calculator").hidden = false;
  load();
})();
