// A search tree as SVG: the root at the left, a column for each turn; nodes sized by visits, filled by mean reward.

const SIDE = 24, COLUMN = [30, 120], ROW = [9, 21], HEIGHT = 560, LARGEST_NODE = 8;

class TreeDrawing {
  /** `nodes` are [parent, turn, observation, visits, mean, reward], by their number in the search; `onChoose` gets one. */
  constructor(nodes, onChoose) {
    this.nodes = nodes;
    this.onChoose = onChoose;
    this.children = new Map([...nodes.keys()].map((number) => [number, []]));
    for (const [number, [parent]] of nodes) this.children.get(parent)?.push(number);
    this.depth = new Map([[0, 0]]);
    this.row = new Map();
    this.rows = 0;
    this.layRows(0);
    this.columns = Math.max(1, ...this.depth.values());
    const keys = "Arrow keys go to the parent, the first child, and up and down a column.";
    this.svg = makeSvg("svg", { class: "tree", tabindex: "0", role: "group", "aria-label": `Search tree of ${nodes.size} nodes. ${keys}` });
    this.svg.addEventListener("keydown", (event) => this.move(event));
  }

  /** Ends of ways a row each, in the order sampled; other nodes in the middle of what is below them. */
  layRows(number) {
    const children = this.children.get(number);
    for (const child of children) {
      this.depth.set(child, this.depth.get(number) + 1);
      this.layRows(child);
    }
    const rows = children.map((child) => this.row.get(child));
    this.row.set(number, rows.length ? (rows[0] + rows.at(-1)) / 2 : this.rows++);
  }

  pathTo(number) {
    const path = [];
    for (let at = number; at >= 0 && this.nodes.has(at); at = this.nodes.get(at)[0]) path.unshift(at);
    return path;
  }

  /** Draw into `width`, with the way marked: {good, bad?, parting?, left?}. */
  draw(width, way) {
    const height = clamp(HEIGHT / this.rows, ROW), column = clamp((width - 2 * SIDE - 26) / this.columns, COLUMN);
    this.x = (number) => SIDE + column * this.depth.get(number);
    this.y = (number) => SIDE + height * this.row.get(number);
    const wide = Math.ceil(2 * SIDE + 26 + column * this.columns), high = 2 * SIDE + height * (this.rows - 1);
    fill(this.svg, { viewBox: `0 0 ${wide} ${high}`, width: wide, height: high }, []);
    const good = new Set(way?.good ? this.pathTo(way.good) : []), bad = new Set(way?.bad ? this.pathTo(way.bad) : []);
    const kind = (number) => (good.has(number) && bad.has(number) ? "shared" : good.has(number) ? "good" : bad.has(number) ? "bad" : "");
    const numbers = [...this.nodes.keys()].filter((number) => this.row.has(number));
    const plainFirst = numbers.slice(1).sort((one, other) => Boolean(kind(one)) - Boolean(kind(other)));
    this.svg.replaceChildren(
      ...plainFirst.map((number) => makeSvg("path", { class: `edge ${kind(number)}`, d: this.edge(this.nodes.get(number)[0], number) })),
      ...(way?.bad ? this.revision(way) : []),
      ...numbers.map((number) => this.node(number)),
      ...[[way?.good, "good"], [way?.bad, "bad"]].filter(([leaf]) => leaf).map(([leaf, name]) => this.label(leaf, name)),
    );
    this.choose(this.chosen);
  }

  edge(from, to) {
    const middle = (this.x(from) + this.x(to)) / 2;
    return `M${this.x(from)} ${this.y(from)}C${middle} ${this.y(from)} ${middle} ${this.y(to)} ${this.x(to)} ${this.y(to)}`;
  }

  /** From the node after which the bad way is left to the first one of the good way. */
  revision({ good, parting, left }) {
    const path = this.pathTo(good), next = path[path.indexOf(parting) + 1];
    if (!this.row.has(left) || next === undefined) return [];
    const [x, y, toX, toY] = [this.x(left), this.y(left), this.x(next), this.y(next)];
    const bow = Math.max(x, toX) + 34;
    return [
      makeSvg("path", { class: "revision", d: `M${x} ${y}C${bow} ${y} ${bow} ${toY} ${toX} ${toY}` }),
      makeSvg("circle", { class: "mistake", cx: x, cy: y, r: this.radius(left) + 5 }),
    ];
  }

  radius(number) {
    const most = this.nodes.get(0)[3] || 1;
    return 3 + LARGEST_NODE * Math.sqrt(this.nodes.get(number)[3] / most);
  }

  node(number) {
    const [, turn, , visits, mean, reward] = this.nodes.get(number);
    const [x, y, r] = [this.x(number), this.y(number), this.radius(number)];
    const look = { class: visits ? "node" : "node unvisited", style: visits ? `fill:${valueColour(mean)}` : null };
    const shape = reward === null ? makeSvg("circle", { ...look, cx: x, cy: y, r }) : makeSvg("rect", { ...look, x: x - r, y: y - r, width: 2 * r, height: 2 * r });
    const group = makeSvg("g", { "data-node": number }, makeSvg("title", {}, `${turn || "the task"}\n${visitsOf(visits, mean)}`), shape);
    group.addEventListener("click", () => this.onChoose(number));
    return group;
  }

  label(leaf, name) {
    return makeSvg("text", { class: `label ${name}`, x: this.x(leaf) + this.radius(leaf) + 5, y: this.y(leaf) + 4 }, name);
  }

  choose(number) {
    this.chosen = number;
    for (const group of this.svg.querySelectorAll("g")) group.classList.toggle("chosen", Number(group.dataset.node) === number);
  }

  move(event) {
    const column = [...this.row.keys()].filter((number) => this.depth.get(number) === this.depth.get(this.chosen)).sort((one, other) => this.row.get(one) - this.row.get(other));
    const beside = (by) => column[column.indexOf(this.chosen) + by];
    const next = { ArrowLeft: () => this.nodes.get(this.chosen)[0], ArrowRight: () => this.children.get(this.chosen)[0], ArrowUp: () => beside(-1), ArrowDown: () => beside(1) }[event.key];
    if (!next) return;
    event.preventDefault();
    if (this.row.has(next())) this.onChoose(next());
  }
}

/** From nothing at 0 to the full accent at 1. */
function valueColour(mean) {
  return `color-mix(in srgb, var(--accent) ${Math.round(100 * Math.min(1, Math.max(0, mean)))}%, var(--surface))`;
}

function visitsOf(visits, mean) {
  return visits ? `${visits} ${visits === 1 ? "visit" : "visits"}, mean reward ${formatNumber(mean)}` : "no end was reached from here";
}
