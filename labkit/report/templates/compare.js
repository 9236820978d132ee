(function () {
  var runs = JSON.parse(document.getElementById("runs").textContent);
  var first = document.getElementById("first");
  var second = document.getElementById("second");
  var place = document.getElementById("comparison");

  function make(tag, text, parent, kind) {
    var made = document.createElement(tag);
    made.textContent = text;
    if (kind) { made.className = kind; }
    parent.appendChild(made);
    return made;
  }
  function key(f) { return [f.notebook, f.variant, f.baseline, f.phase, f.metric].join("\n"); }
  function digits(x) { return x >= 100 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(3))); }
  function value(f) { return f ? digits(f.value) + " " + f.unit : "–"; }
  function speedup(f) { return f ? f.speedup.toFixed(2) + "x [" + f.speedup_low.toFixed(2) + ", " + f.speedup_high.toFixed(2) + "]" : "–"; }
  function share(f) { return f && f.fraction_of_limit !== null ? Math.round(100 * f.fraction_of_limit) + " %" : "–"; }

  function row(body, name, a, b) {
    var line = make("tr", "", body);
    make("td", name, line);
    [value(a), value(b), a && b ? (b.value / a.value).toFixed(2) + "x" : "–",
      speedup(a), speedup(b), share(a), share(b)].forEach(function (text) {
      make("td", text, line, "number");
    });
  }
  function draw() {
    var a = runs[first.value], b = runs[second.value], from = {}, to = {}, names = {};
    place.textContent = "";
    a.findings.forEach(function (f) { from[key(f)] = f; names[key(f)] = f; });
    b.findings.forEach(function (f) { to[key(f)] = f; names[key(f)] = f; });
    ["model", "machine", "torch"].forEach(function (what) {
      if (a[what] !== b[what]) { make("p", "Not the same " + what + ": " + a[what] + " | " + b[what], place, "banner"); }
    });
    var table = make("table", "", make("div", "", place, "table"));
    var head = make("tr", "", make("thead", "", table));
    ["finding", a.name, b.name, "second / first", "speedup, first", "speedup, second", "of limit, first", "of limit, second"].forEach(function (text) {
      make("th", text, head);
    });
    var body = make("tbody", "", table);
    Object.keys(names).forEach(function (k) {
      var f = names[k];
      row(body, f.notebook + ": " + f.variant + " / " + f.baseline + ", " + f.phase, from[k], to[k]);
    });
  }
  first.addEventListener("change", draw);
  second.addEventListener("change", draw);
  draw();
})();
