// Compares any of the runs in #runs. Names come from outside, so they are only ever set as text.
(function () {
  "use strict";
  const runs = JSON.parse(document.getElementById("runs").textContent);
  const first = document.getElementById("first");
  const others = document.getElementById("others");
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

  function side(run, found, base, line) {
    const cell = make("td", "", line);
    make("small", run.name, cell, "label");
    const head = make("span", "", cell, "keep");
    make("strong", found ? found.value : "–", head);
    if (!found) return;
    const same = base && base.workload === found.workload;
    if (base && !same) make("small", "not the same work: " + found.workload, cell);
    if (same && base !== found && base.speed > 0) {
      head.append(" (" + (found.speed / base.speed).toFixed(2) + "x)");
    }
    ["speedup " + found.speedup, found.share, found.limit].forEach(function (text) {
      make("small", text, cell);
    });
  }

  function row(name, chosen, found, body) {
    const line = make("tr", "", body);
    make("th", name, line).scope = "row";
    chosen.forEach(function (run, i) { side(run, found[i].get(name), found[0].get(name), line); });
  }

  function differences(chosen) {
    ["model", "dtype", "machine", "torch", "profile"].forEach(function (what) {
      if (new Set(chosen.map(function (run) { return run[what]; })).size < 2) return;
      const note = make("p", "", shown, "banner");
      make("strong", "Not the same " + what + ": ", note);
      note.append(chosen.map(function (run) { return run[what] + " in " + run.name; }).join("; ") + ".");
    });
    chosen.forEach(function (run) { if (run.unread) make("p", run.unread, shown, "banner bad"); });
  }

  function draw() {
    const beside = Array.from(others.querySelectorAll("input"));
    beside.forEach(function (box) { box.disabled = box.value === first.value; });
    const checked = beside.filter(function (box) { return box.checked && !box.disabled; });
    const chosen = [first, ...checked].map(function (one) { return runs[one.value]; });
    shown.textContent = "";
    differences(chosen);
    const found = chosen.map(function (run) {
      return new Map(run.findings.map(function (finding) { return [finding.name, finding]; }));
    });
    const names = new Set(found.flatMap(function (one) { return [...one.keys()]; }));
    if (!names.size) { make("p", "None of these runs has findings.", shown); return; }
    const box = make("div", "", shown, "table");
    const table = make("table", "", box, "cards");
    heading(["finding", ...chosen.map(function (run) { return run.name; })], table);
    const body = make("tbody", "", table);
    names.forEach(function (name) { row(name, chosen, found, body); });
    make("p", "In parentheses: the speed over that of the first run. The runs took no turns with each " +
      "other, so this ratio has no interval, and small differences mean little. In brackets: 95 % " +
      "intervals, each within its own run.", shown, "dim");
  }

  first.addEventListener("change", draw);
  others.addEventListener("change", draw);
  document.getElementById("compare").hidden = false;
  document.getElementById("by-hand").hidden = true;
  draw();
})();
