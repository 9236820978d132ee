// Compares any two of the runs in #runs. Names come from outside, so they are only ever set as text.
(function () {
  "use strict";
  const runs = JSON.parse(document.getElementById("runs").textContent);
  const first = document.getElementById("first");
  const second = document.getElementById("second");
  const shown = document.getElementById("comparison");

  function make(tag, text, parent, kind) {
    const made = document.createElement(tag);
    made.textContent = text;
    if (kind) made.className = kind;
    return parent.appendChild(made);
  }

  function heading(names, parent) {
    const head = make("tr", "", make("thead", "", parent));
    names.forEach(function (name) { make("th", name, head).scope = "col"; });
  }

  function side(run, found, line) {
    const cell = make("td", "", line);
    make("small", run.name, cell, "label");
    make("strong", found ? found.value : "–", cell);
    if (found) {
      make("small", "speedup " + found.speedup, cell);
      make("small", found.share, cell);
    }
  }

  function row(name, a, b, left, right, body) {
    const line = make("tr", "", body);
    make("th", name, line).scope = "row";
    side(a, left, line);
    side(b, right, line);
    const change = left && right && left.speed > 0 ? (right.speed / left.speed).toFixed(2) + "x" : "–";
    const cell = make("td", "", line);
    make("small", "second to first", cell, "label");
    make("strong", change, cell);
  }

  function draw() {
    const a = runs[first.value], b = runs[second.value];
    shown.textContent = "";
    ["model", "machine", "torch"].forEach(function (what) {
      if (a[what] === b[what]) return;
      const note = make("p", "", shown, "banner");
      make("strong", "Not the same " + what + ": ", note);
      note.append(a[what] + " in the first, " + b[what] + " in the second.");
    });
    const left = new Map(a.findings.map(function (f) { return [f.name, f]; }));
    const right = new Map(b.findings.map(function (f) { return [f.name, f]; }));
    const names = new Set([...left.keys(), ...right.keys()]);
    if (!names.size) { make("p", "Neither run has findings.", shown); return; }
    const table = make("table", "", shown, "cards");
    heading(["finding", a.name, b.name, "second to first"], table);
    const body = make("tbody", "", table);
    names.forEach(function (name) { row(name, a, b, left.get(name), right.get(name), body); });
    make("p", "“second to first” is a ratio of speeds: above 1, the second run is faster. " +
      "The two runs were not interleaved, so small differences mean little.", shown, "dim");
  }

  first.addEventListener("change", draw);
  second.addEventListener("change", draw);
  document.getElementById("compare").hidden = false;
  document.getElementById("by-hand").hidden = true;
  draw();
})();
