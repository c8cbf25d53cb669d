// One chart: lines over steps, or a stack of areas, with a crosshair that all charts share.

const MARGIN = { top: 8, right: 12, bottom: 22, left: 44 };

/**
 * A chart in a figure.
 *
 * @param spec {title, about, series: [{values, label, colour, band?, bars?, sparse?}], stacked?, exact?, fromZero?, unitRange?,
 *   wide?, tall?}
 *   `values` has one number or null for each entry of `steps`; `band` has half-widths around them, `bars` the ends of
 *   intervals, [low, high] or null; `exact` is not smoothed.
 * @param onHover called with an index into `steps`, or null.
 */
class Chart {
  constructor(spec, steps, onHover) {
    this.spec = spec;
    this.steps = steps;
    this.onHover = onHover;
    this.log = false;
    this.smoothing = 0;
    this.width = 0;
    this.svg = makeSvg("svg", { role: "img", tabindex: "0", "aria-label": this.description() });
    this.readouts = spec.series.map(() => make("b"));
    this.figure = make("figure", { class: spec.wide ? "chart wide" : "chart" }, this.caption(), this.svg);
    this.listen();
    this.point(null);
  }

  get height() {
    return (this.spec.wide && this.width > 500) || this.spec.tall ? 236 : 168;
  }

  description() {
    const parts = this.spec.series.map((series) => {
      const known = series.values.filter((value) => value !== null);
      return `${series.label}: from ${formatNumber(known[0])} to ${formatNumber(known.at(-1))}`;
    });
    return `${this.spec.title}. ${parts.join("; ")}`;
  }

  caption() {
    const { title, about, series, stacked } = this.spec;
    const single = series.length === 1;
    const head = make("figcaption", {}, make("h3", {}, title));
    if (single) {
      this.readouts[0].className = "value";
      head.append(this.readouts[0]);
    }
    if (this.canBeLogarithmic()) {
      const button = make("button", { type: "button", class: "quiet log", "aria-pressed": "false" }, "log");
      button.addEventListener("click", () => {
        this.log = !this.log;
        button.setAttribute("aria-pressed", String(this.log));
        this.draw();
      });
      head.append(button);
    }
    const rows = [head, about ? make("p", { class: "about" }, about) : null];
    if (!single) {
      const items = series.map((one, index) =>
        make("li", {}, make("span", { class: stacked ? "swatch area" : "swatch", style: `background:${one.colour}` }), one.label, this.readouts[index]),
      );
      rows.push(make("ul", { class: "legend" }, items));
    }
    return make("div", {}, rows);
  }

  canBeLogarithmic() {
    if (this.spec.stacked) return false;
    const known = this.spec.series.flatMap((series) => series.values).filter((value) => value !== null);
    const low = Math.min(...known), high = Math.max(...known);
    return low > 0 && high / low >= 8;
  }

  listen() {
    const indexAt = (event) => this.nearest(event.clientX - this.svg.getBoundingClientRect().left);
    this.svg.addEventListener("pointermove", (event) => this.onHover(indexAt(event)));
    this.svg.addEventListener("pointerdown", (event) => this.onHover(indexAt(event)));
    this.svg.addEventListener("pointerleave", () => this.onHover(null));
    this.svg.addEventListener("blur", () => this.onHover(null));
    this.svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      const last = this.steps.length - 1;
      this.onHover(Math.min(last, Math.max(0, (this.pointed ?? last) + move)));
      event.preventDefault();
    });
  }

  nearest(x) {
    let best = 0;
    this.steps.forEach((step, index) => {
      if (Math.abs(this.x(step) - x) < Math.abs(this.x(this.steps[best]) - x)) best = index;
    });
    return best;
  }

  resize(width) {
    if (width === this.width) return;
    this.width = width;
    this.draw();
  }

  smooth(amount) {
    this.smoothing = amount;
    this.draw();
  }

  draw() {
    if (this.width <= 0) return;
    const { width, height } = this;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    const lines = this.spec.stacked ? this.stack() : this.spec.series;
    const [low, high] = this.range(lines);
    this.x = linear(xRange(this.steps), [MARGIN.left, width - MARGIN.right]);
    const vertical = [height - MARGIN.bottom, MARGIN.top];
    this.y = this.log ? logarithmic([low, high], vertical) : linear([low, high], vertical);
    this.svg.replaceChildren(this.axes(low, high), ...lines.map((line) => this.shape(line)), this.marker());
    this.point(this.pointed);
  }

  range(lines) {
    if (this.spec.unitRange) return [0, 1];
    let low = Infinity, high = -Infinity;
    for (const { values, band, bars } of lines) {
      values.forEach((value, index) => {
        if (value === null) return;
        const spread = band?.[index] ?? 0, bar = bars?.[index] ?? [value, value];
        low = Math.min(low, value - (this.log ? 0 : spread), this.log ? value : bar[0]);
        high = Math.max(high, value + spread, bar[1]);
      });
    }
    if (this.log) return [low / 1.1, high * 1.1];
    if (this.spec.fromZero || this.spec.stacked) low = Math.min(0, low);
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    return [low === 0 ? 0 : low - room, high + room];
  }

  axes(low, high) {
    const { width, height } = this;
    const group = makeSvg("g", { "aria-hidden": "true" });
    const ticks = this.log ? logTicks(low, high) : niceTicks(low, high, 4);
    const distance = ticks.length > 1 ? ticks[1] - ticks[0] : high - low;
    for (const tick of ticks) {
      const y = this.y(tick);
      group.append(
        makeSvg("line", { class: "gridline", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }),
        makeSvg("text", { x: MARGIN.left - 8, y: y + 4, "text-anchor": "end" }, formatTick(tick, this.log ? tick : distance)),
      );
    }
    const bottom = height - MARGIN.bottom;
    group.append(makeSvg("line", { class: "baseline", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }));
    const [first, last] = xRange(this.steps);
    for (const tick of niceTicks(first, last, Math.max(2, Math.floor(width / 90))).filter(Number.isInteger)) {
      group.append(makeSvg("text", { x: this.x(tick), y: height - 5, "text-anchor": "middle" }, formatTick(tick, 1)));
    }
    return group;
  }

  /** The series on top of each other: each with its own lower edge. */
  stack() {
    const present = this.steps.map((_, index) => this.spec.series.some((series) => series.values[index] !== null));
    const base = present.map((known) => (known ? 0 : null));
    return this.spec.series.map((series) => {
      const own = gaussian(series.values.map((value, index) => value ?? (present[index] ? 0 : null)), this.smoothing);
      const below = base.slice();
      own.forEach((value, index) => (base[index] = present[index] ? base[index] + value : null));
      return { ...series, values: base.slice(), below };
    });
  }

  shape(line) {
    const group = makeSvg("g");
    const points = (values) => this.steps.flatMap((step, index) => (values[index] === null ? [] : [[this.x(step), this.y(values[index])]]));
    if (line.below) {
      const area = [...points(line.values), ...points(line.below).reverse()];
      group.append(makeSvg("path", { d: path(widened(area)) + "Z", class: "area", fill: line.colour }));
      return group;
    }
    const values = line.sparse || this.spec.exact ? line.values : gaussian(line.values, this.smoothing);
    if (line.band) {
      const band = gaussian(line.band, this.smoothing), limits = this.spec.unitRange ? [0, 1] : [-Infinity, Infinity];
      const edge = (sign) => points(values.map((value, index) => (value === null ? null : clamp(value + sign * (band[index] ?? 0), limits))));
      group.append(makeSvg("path", { class: "band", d: path([...edge(1), ...edge(-1).reverse()]) + "Z", fill: line.colour }));
    }
    if (values !== line.values) group.append(makeSvg("path", { class: "raw", d: path(points(line.values)), stroke: line.colour }));
    const drawn = points(values);
    group.append(makeSvg("path", { class: "curve", d: path(drawn), stroke: line.colour }));
    if (line.bars) group.append(makeSvg("path", { class: "errors", d: this.bars(line), stroke: line.colour }));
    if (drawn.length < 2 || (line.sparse && drawn.length <= 60)) {
      group.append(...drawn.map(([x, y]) => makeSvg("circle", { class: "dot", cx: x, cy: y, r: drawn.length > 20 ? 2.5 : 3.5, fill: line.colour })));
    }
    return group;
  }

  bars({ bars }) {
    const line = (bar, index) => (bar ? `M${this.x(this.steps[index]).toFixed(1)} ${this.y(bar[0]).toFixed(1)}V${this.y(bar[1]).toFixed(1)}` : "");
    return bars.map(line).join("");
  }

  marker() {
    this.crosshair = makeSvg("line", { class: "crosshair", y1: MARGIN.top, y2: this.height - MARGIN.bottom, visibility: "hidden" });
    this.dots = this.spec.stacked ? [] : this.spec.series.map((series) => makeSvg("circle", { class: "dot", r: 4, fill: series.colour, visibility: "hidden" }));
    return makeSvg("g", { "pointer-events": "none" }, this.crosshair, this.dots);
  }

  /** Show the values at an index of `steps`; at null, the last ones. */
  point(index) {
    this.pointed = index;
    const at = index ?? this.steps.length - 1;
    this.spec.series.forEach((series, number) => {
      const known = series.values.slice(0, at + 1).findLast((value) => value !== null);
      this.readouts[number].textContent = formatNumber(known);
    });
    if (!this.crosshair) return;
    const x = index === null ? null : this.x(this.steps[index]);
    place(this.crosshair, x === null ? null : { x1: x, x2: x });
    this.dots.forEach((dot, number) => {
      const value = index === null ? null : this.spec.series[number].values[index];
      place(dot, value === null ? null : { cx: x, cy: this.y(value) });
    });
  }
}

function place(element, attributes) {
  element.setAttribute("visibility", attributes ? "visible" : "hidden");
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
}

function clamp(value, [low, high]) {
  return Math.min(high, Math.max(low, value));
}

function path(points) {
  return points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

/** An area over a single step gets a width. */
function widened(area) {
  if (area.length !== 2) return area;
  const [[x, top], [, bottom]] = area;
  return [[x - 20, top], [x + 20, top], [x + 20, bottom], [x - 20, bottom]];
}

function xRange(steps) {
  const first = steps[0], last = steps.at(-1);
  return first === last ? [first - 1, last + 1] : [first, last];
}

function linear([low, high], [start, end]) {
  return (value) => start + ((value - low) / (high - low)) * (end - start);
}

function logarithmic([low, high], range) {
  const scale = linear([Math.log(low), Math.log(high)], range);
  return (value) => scale(Math.log(value));
}

function niceTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const distance = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let place = Math.ceil(low / distance - 1e-9); place * distance <= high + distance * 1e-9; place += 1) {
    ticks.push(Number((place * distance).toPrecision(12)));
  }
  return ticks;
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const factors = decades < 1.5 ? [1, 2, 5] : decades < 4 ? [1, 3] : [1];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    ticks.push(...factors.map((factor) => factor * 10 ** power).filter((tick) => tick >= low && tick <= high));
  }
  return ticks;
}

/** Weighted means over neighbouring points, which do not lag behind the curve; amount 0 leaves it as it is. */
function gaussian(values, amount) {
  const sigma = amount ** 2 * values.length * 0.12;
  if (sigma < 0.3) return values;
  const reach = Math.ceil(3 * sigma);
  const kernel = Array.from({ length: reach + 1 }, (_, distance) => Math.exp(-0.5 * (distance / sigma) ** 2));
  return values.map((value, index) => {
    if (value === null) return null;
    let sum = 0, weights = 0;
    for (let other = Math.max(0, index - reach); other <= Math.min(values.length - 1, index + reach); other += 1) {
      if (values[other] === null) continue;
      const weight = kernel[Math.abs(other - index)];
      sum += weight * values[other];
      weights += weight;
    }
    return sum / weights;
  });
}
