// The searches of an agent: iteration, tree, and the ways of it that were trained; one way turn by turn.

class TreeBrowser extends TokenView {
  constructor(iterations, host) {
    super(["weight", "origin"]);
    this.iterations = iterations;
    this.list = make("div", { class: "groups", role: "group", "aria-label": "Trees of this iteration" });
    this.ways = make("select", { "aria-label": "Trained way of this tree" });
    this.ways.addEventListener("change", () => this.showWay(Number(this.ways.value)));
    this.canvas = make("div", { class: "canvas" });
    this.step = make("div", { class: "prompt step", "aria-live": "polite" });
    this.task = make("div", { class: "prompt" });
    this.about = make("p", { class: "constant" });
    this.main = make("div", {}, this.task, make("div", { class: "ways" }, this.ways, this.about), this.canvas, treeKey(), this.step, this.key, this.detail);
    host.append(this.bar(), make("div", { class: "browser" }, this.list, this.main));
    new ResizeObserver(() => requestAnimationFrame(() => this.draw())).observe(this.main);
    this.showIteration(iterations.length - 1);
  }

  bar() {
    const slider = make("input", { type: "range", min: 0, max: this.iterations.length - 1, value: this.iterations.length - 1, "aria-label": "Iteration of the trees" });
    slider.addEventListener("input", () => this.showIteration(Number(slider.value)));
    this.slider = slider;
    this.label = make("output");
    return make("div", { class: "samples-bar" }, make("div", { class: "stepper" }, this.label, slider), this.modeChoice());
  }

  showIteration(place) {
    const { iteration, of, trees, trees_in_iteration, unreadable } = this.iterations[place];
    const all = trees_in_iteration - unreadable.filter((name) => name.startsWith("trees/")).length;
    this.trees = trees;
    this.label.textContent = `iteration ${iteration + 1} of ${of}`;
    this.slider.setAttribute("aria-valuetext", this.label.textContent);
    const heading = [trees.length === all ? `${all} ${all === 1 ? "tree" : "trees"}` : `${trees.length} of ${all} trees: the others would make this page too large`];
    if (this.iterations.length < of) heading.push(`${this.iterations.length} of ${of} iterations are in this page`);
    if (unreadable.length) heading.push(`${unreadable.length} cannot be read: ${unreadable.slice(0, 3).join(", ")}`);
    this.items = trees.map((tree, index) => this.item(tree, index));
    const legend = "A square is the end of an episode, best first, filled by its reward.";
    this.list.replaceChildren(make("p", {}, `${heading.join(". ")}.`), ...this.items, make("div", { class: "legend" }, legend));
    this.main.hidden = !trees.length;
    if (trees.length) this.showTree(0);
  }

  item({ task, rewards, revisions }, index) {
    const cells = rewards.slice(0, 40).map((reward) => make("i", { style: `background:${valueColour(reward)}` }));
    const count = revisions ? `${revisions} ${revisions === 1 ? "revision" : "revisions"}` : "";
    const button = make("button", { type: "button", class: "group", title: `ends: ${rewards.map(formatNumber).join(", ") || "none"}` }, make("div", { class: "name" }, make("span", {}, task), count), make("div", { class: "cells" }, cells));
    button.addEventListener("click", () => this.showTree(index));
    return button;
  }

  async showTree(index) {
    this.items.forEach((item, number) => item.setAttribute("aria-current", String(number === index)));
    const listed = this.trees[index], tree = await unpack(listed.data);
    if (this.items[index]?.getAttribute("aria-current") !== "true" || this.trees[index] !== listed) return;
    this.tree = tree;
    this.nodes = new Map(tree.kept.map((number, place) => [number, tree.nodes[place]]));
    this.drawing = new TreeDrawing(this.nodes, (number) => this.showNode(number));
    this.canvas.replaceChildren(this.drawing.svg);
    this.task.replaceChildren(make("h3", {}, "Task ", make("span", {}, `${listed.task} · ${tree.file}`)), make("div", { class: "text" }, tree.first || "The first observation was not kept."));
    this.ways.replaceChildren(...tree.ways.map((way, number) => make("option", { value: number }, wayName(way))));
    this.ways.hidden = !tree.ways.length;
    this.showWay(0);
  }

  showWay(number) {
    const way = this.tree.ways[number], ends = [...this.nodes].filter(([, node]) => node[5] !== null);
    const left = this.tree.left_out ? `${this.tree.left_out.toLocaleString("en")} nodes of the fewest visits are left out.` : "";
    this.way = way;
    this.about.textContent = `${way ? "" : "No way of this tree was trained: shown is the way to the chosen node. "}${left}`;
    this.draw();
    const best = ends.sort(([, one], [, other]) => other[5] - one[5])[0]?.[0] ?? 0;
    this.showNode(way?.left ?? way?.good ?? best);
    if (way) this.read(way);
  }

  draw() {
    if (this.drawing && this.canvas.clientWidth > 0) this.drawing.draw(this.canvas.clientWidth, this.way);
  }

  showNode(number) {
    const [, turn, observation, visits, mean, reward] = this.nodes.get(number);
    this.drawing.choose(number);
    this.bringIntoView(number);
    const end = reward === null ? "" : `, ends with reward ${formatNumber(reward)}`;
    const mark = number === this.way?.left ? " · the mistake, after which the revision comes" : "";
    this.step.replaceChildren(
      make("h3", {}, `Node ${number} `, make("span", {}, `turn ${this.drawing.depth.get(number)} · ${visitsOf(visits, mean)}${end}${mark}`)),
      make("div", { class: "text" }, turn ? `${turn.trim()}\n→ ${observation}` : observation || "The task."),
    );
    if (!this.way) this.read(this.wayTo(number));
  }

  bringIntoView(number) {
    if (!this.drawing.x) return;
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.canvas;
    const [x, y] = [this.drawing.x(number), this.drawing.y(number)];
    const shown = x > scrollLeft && x < scrollLeft + clientWidth && y > scrollTop && y < scrollTop + clientHeight;
    if (!shown) this.canvas.scrollTo(x - clientWidth / 2, y - clientHeight / 2);
  }

  /** Turns and observations down to a node, none of them trained. */
  wayTo(number) {
    const steps = this.drawing.pathTo(number).slice(1).flatMap((at) => [[this.nodes.get(at)[1], 1], [this.nodes.get(at)[2], 3]]);
    const tokens = steps.flatMap(([text, origin]) => text.split(/(?<=\n)/).map((line) => [line, origin]));
    return { tokens: tokens.map(([text]) => text), origin: tokens.map(([, origin]) => origin), weights: null };
  }

  read(way) {
    this.records = [{ rollouts: [way] }];
    this.detail.replaceChildren(way.tokens.length ? make("article", { class: "rollout" }, this.tokens(way, "0.0")) : "");
    this.paint();
  }
}

function wayName({ objective, how, reward, good, bad, bad_steps: kept, steps }) {
  const score = `reward ${formatNumber(reward)}`;
  if (how === undefined) return `good way to node ${good}, ${score}`;
  const nodes = bad === undefined ? objective : `nodes ${bad} → ${good}`;
  return `revision, ${nodes}: ${how} after bad step ${kept ?? "?"} of ${steps ?? "?"}, ${score}`;
}

function treeKey() {
  const line = (name, text) => make("span", {}, make("i", { class: `line ${name}` }), text);
  return make(
    "div",
    { class: "key" },
    make("span", {}, "size: visits"),
    make("span", {}, "mean reward 0", make("i", { class: "ramp", style: `background:linear-gradient(90deg,${valueColour(0)},${valueColour(1)})` }), "1"),
    make("span", {}, "square: an end"),
    line("good", "good way"),
    line("bad", "bad way"),
    line("revision", "from the mistake to the good way"),
  );
}
