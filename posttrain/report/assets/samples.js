// The sample browser: step, groups, and their rollouts by rank, those the policy was pushed towards beside the others.
// Every token is coloured by its weight, its origin, or the longest n-gram around it that the closest reference has.

const ORIGINS = ["prompt", "policy", "expert", "environment", "revision"];
const ORIGIN_COLOURS = [null, null, "--expert", "--environment", "--revision"];
const PROMPTS_SHOWN = 4; // at once, fewer where their completions have more tokens than
const TOKENS_SHOWN = 2500;
const MODES = {
  weight: "how hard the token was pushed",
  origin: "who wrote the token",
  overlap: "n-grams that the closest reference has too",
};

class SampleBrowser {
  constructor(steps, host) {
    this.steps = steps;
    this.host = host;
    this.place = steps.length - 1;
    this.group = Math.max(0, steps[this.place].groups.findIndex((group) => group.pushed.some(Boolean)));
    this.mode = "weight";
    this.tip = make("div", { class: "tip", role: "tooltip" });
    document.body.append(this.tip);
    this.list = make("div", { class: "groups", role: "group", "aria-label": "Groups of this step" });
    this.detail = make("div");
    host.append(this.bar(), make("div", { class: "browser" }, this.list, this.detail));
    this.listen();
    this.showStep(this.place);
  }

  bar() {
    this.slider = make("input", { type: "range", min: 0, max: this.steps.length - 1, value: this.place, "aria-label": "Step of the samples" });
    this.slider.addEventListener("input", () => this.showStep(Number(this.slider.value)));
    this.label = make("output");
    const modes = ["weight", "origin", "overlap"].map((mode) => {
      const button = make("button", { type: "button", class: "quiet", "aria-pressed": String(mode === this.mode), title: MODES[mode] }, `by ${mode}`);
      button.addEventListener("click", () => {
        this.mode = mode;
        for (const other of modes) other.setAttribute("aria-pressed", String(other === button));
        this.paint();
        this.clamp();
      });
      return button;
    });
    this.byOverlap = modes[2];
    return make("div", { class: "samples-bar" }, make("div", { class: "stepper" }, this.label, this.slider), make("div", { class: "choice", role: "group", "aria-label": "Colour of the tokens" }, modes));
  }

  showStep(place) {
    this.place = place;
    const step = this.steps[place];
    this.label.textContent = formatStep(step.step);
    this.slider.setAttribute("aria-valuetext", formatStep(step.step));
    this.group = Math.min(this.group, step.groups.length - 1);
    const shown = step.groups.length, all = step.groups_in_step;
    const heading = shown === all ? `${all} ${all === 1 ? "group" : "groups"}` : `${shown} of ${all} groups`;
    this.items = step.groups.map((group, index) => this.item(group, index));
    const legend = "A square is a rollout, best first, filled by its reward; underlined if it moved the policy.";
    this.list.replaceChildren(make("p", {}, heading), ...this.items, make("div", { class: "legend" }, legend));
    this.showGroups(Math.max(0, this.group));
  }

  item(group, index) {
    const judged = group.rewards.filter((reward) => reward !== null);
    const mean = judged.length ? judged.reduce((sum, reward) => sum + reward, 0) / judged.length : null;
    const cells = group.rewards.map((reward, rollout) => {
      if (reward === null) return make("i", { class: "failed" });
      return make("i", { class: group.pushed[rollout] ? "pushed" : null, style: `background:${this.rewardColour(reward)}` });
    });
    const button = make(
      "button",
      { type: "button", class: "group", title: `${group.rewards.length} rollouts: ${group.rewards.map(formatNumber).join(", ")}` },
      make("div", { class: "name" }, make("span", {}, group.example_id), make("b", {}, mean === null ? MISSING : minus(mean.toFixed(2)))),
      make("div", { class: "cells" }, cells),
    );
    button.addEventListener("click", () => this.showGroups(index));
    return button;
  }

  /** From nothing at the lowest reward of the page to the full accent at its highest. */
  rewardColour(reward) {
    if (!this.rewardRange) {
      const all = this.steps.flatMap((step) => step.groups.flatMap((group) => group.rewards)).filter((value) => value !== null);
      this.rewardRange = [Math.min(0, ...all), Math.max(...all)];
    }
    const [low, high] = this.rewardRange;
    const share = high > low ? (reward - low) / (high - low) : 0;
    return `color-mix(in srgb, var(--accent) ${Math.round(share * 100)}%, transparent)`;
  }

  /** The group at `index` and those after it. */
  async showGroups(index) {
    this.group = index;
    const groups = this.steps[this.place].groups.slice(index, index + PROMPTS_SHOWN);
    if (!groups.length) {
      this.detail.replaceChildren(make("p", { class: "empty" }, "The samples of this step were too large for this page; they are in the run folder."));
      return;
    }
    const records = await Promise.all(groups.map((group) => unpack(group.data)));
    if (groups[0] !== this.steps[this.place].groups[this.group]) return;
    const tokens = (record) => record.rollouts.reduce((sum, rollout) => sum + rollout.tokens.length, 0);
    let room = TOKENS_SHOWN;
    this.records = records.filter((record, number) => (room -= tokens(record)) >= 0 || number === 0);
    this.items.forEach((item, number) => item.setAttribute("aria-current", String(number >= index && number < index + this.records.length)));
    this.byOverlap.hidden = !this.records.some((record) => record.references.length);
    this.key = make("div", { class: "key" });
    this.detail.replaceChildren(this.key, ...this.records.flatMap((record, number) => this.groupElements(record, number, groups[number].example_id)));
    this.paint();
    this.clamp();
    if (this.byOverlap.hidden && this.mode === "overlap") this.byOverlap.parentNode.firstChild.click();
  }

  groupElements(record, number, name) {
    const cards = record.rollouts.map((rollout, rank) => this.rollout(record, rollout, `${number}.${rank}`, rank));
    const up = cards.filter((_, rank) => record.rollouts[rank].push > 0);
    const others = record.rollouts.filter((rollout) => rollout.push <= 0);
    const down = others.filter((rollout) => rollout.push < 0).length;
    const title = down === others.length ? "Pushed down" : down ? "Pushed down or not trained" : "Not trained";
    const sides = [["Pushed up", up], [title, cards.filter((card) => !up.includes(card))]].filter(([, side]) => side.length);
    return [
      this.prompt(record, name),
      make("div", { class: "sides" }, sides.map(([heading, side]) => make("div", { class: "side" }, make("h4", {}, `${heading} `, make("span", {}, `${side.length} of ${cards.length}`)), side))),
    ];
  }

  /** Cut cards that are long as they are laid out now. */
  clamp() {
    for (const card of this.detail.querySelectorAll(".rollout")) {
      card.classList.remove("clamped");
      const long = Math.max(...[...card.querySelectorAll(".text")].map((text) => text.scrollHeight)) > 300;
      card.classList.toggle("long", long);
      card.classList.toggle("clamped", long);
      card.querySelector(".more").textContent = "Show all";
    }
  }

  prompt(record, name) {
    const answer = Array.isArray(record.answer) ? record.answer.join(" or ") : record.answer;
    return make(
      "div",
      { class: "prompt" },
      make("h3", {}, "Prompt ", make("span", {}, name)),
      make("div", { class: "text" }, record.prompt),
      answer === null ? null : make("p", { class: "answer" }, make("span", {}, "Answer "), answer),
    );
  }

  rollout(record, rollout, place, rank) {
    const parts = partsOf(rollout.reward_parts);
    const written = (origin) => (Array.isArray(rollout.origin) ? rollout.origin.filter((one) => one === origin).length : 0);
    const others = ORIGINS.map((name, origin) => (origin > 1 && written(origin) ? `, ${written(origin)} ${name}` : ""));
    const more = make("button", { type: "button", class: "quiet more" }, "Show all");
    const fate = rollout.pushed ? rollout.objective ?? "trained" : rollout.kept ? "weight 0" : "not trained";
    const card = make(
      "article",
      { class: rollout.pushed ? "rollout" : "rollout still" },
      make(
        "header",
        {},
        make("h3", {}, `#${rank + 1}`),
        make("span", {}, "reward ", make("b", {}, formatNumber(rollout.reward))),
        make("span", {}, `${rollout.length.toLocaleString("en")} tokens${others.join("")}`),
        rollout.finish_reason === "stop" ? make("span", {}, "finished") : make("span", { class: "tag bad" }, rollout.finish_reason === "length" ? "truncated" : rollout.finish_reason),
        make("span", { class: rollout.push > 0 ? "tag up" : rollout.push < 0 ? "tag down" : "tag" }, fate),
      ),
      parts.length > 1 ? make("p", { class: "parts" }, parts.map(([name, value]) => make("span", {}, `${name} `, make("b", {}, value)))) : null,
      rollout.error ? make("p", { class: "error" }, `No reward: ${rollout.error}${rollout.error_message ? `. ${rollout.error_message}` : ""}`) : null,
      make("div", { class: "texts" }, this.completion(rollout, place), this.reference(record, rollout)),
      more,
    );
    more.addEventListener("click", () => {
      more.textContent = card.classList.toggle("clamped") ? "Show all" : "Show less";
    });
    return card;
  }

  /** The closest reference with what the completion shares of it; null where the group has none. */
  reference(record, rollout) {
    if (rollout.reference === undefined) return null;
    const characters = [...record.references[rollout.reference]], nodes = [];
    let end = 0;
    for (const [from, to, order] of [...rollout.reference_spans, [characters.length, characters.length, 0]]) {
      nodes.push(characters.slice(end, from).join(""), make("span", { style: `background:${overlapColour(order)}` }, characters.slice(from, to).join("")));
      end = to;
    }
    const which = record.references.length > 1 ? `Reference ${rollout.reference + 1} of ${record.references.length}` : "Reference";
    return make("div", { class: "reference" }, make("h4", {}, which), make("div", { class: "text" }, nodes));
  }

  completion(rollout, place) {
    const cut = rollout.tokens.length - Math.min(400, rollout.tokens.length);
    const nodes = rollout.tokens.flatMap((text, index) => {
      const token = make("span", { class: "token", "data-rollout": place, "data-token": index }, visible(text));
      if (!rollout.left_out || index !== cut) return [token];
      return [make("span", { class: "left-out" }, `\n… ${rollout.left_out.toLocaleString("en")} tokens left out …\n`), token];
    });
    return make("div", {}, make("h4", {}, "Completion"), make("div", { class: "text" }, nodes));
  }

  paint() {
    const rollouts = this.records.flatMap((record) => record.rollouts);
    const largest = rollouts.flatMap((rollout) => rollout.weights).reduce((most, weight) => Math.max(most, Math.abs(weight ?? 0)), 0);
    this.detail.dataset.mode = this.mode;
    for (const token of this.detail.querySelectorAll(".token")) {
      const { weight, origin, overlap } = this.facts(token);
      token.style.background = { weight: () => weightColour(weight, largest), origin: () => originColour(origin), overlap: () => overlapColour(overlap) }[this.mode]();
    }
    this.key.replaceChildren(...{ weight: () => weightKey(largest), origin: () => originKey(rollouts), overlap: overlapKey }[this.mode]());
  }

  facts(token) {
    const [group, rank] = token.dataset.rollout.split(".").map(Number);
    const rollout = this.records[group].rollouts[rank];
    const at = (values) => (Array.isArray(values) ? values[Number(token.dataset.token)] : values) ?? null;
    return { text: at(rollout.tokens), weight: at(rollout.weights), logprob: at(rollout.logprobs), origin: at(rollout.origin), overlap: at(rollout.overlap) };
  }

  listen() {
    const leave = () => {
      this.under?.classList.remove("under");
      this.under = null;
      this.tip.classList.remove("shown");
    };
    this.detail.addEventListener("pointerover", (event) => {
      const token = event.target.closest(".token");
      leave();
      if (!token) return;
      this.under = token;
      token.classList.add("under");
      this.describe(token);
    });
    this.detail.addEventListener("pointerleave", leave);
    addEventListener("scroll", leave, { passive: true });
  }

  describe(token) {
    const { text, weight, logprob, origin, overlap } = this.facts(token);
    const sampled = origin === 1;
    const rows = [
      weight === null ? "not trained" : `weight ${minus(String(weight))}`,
      sampled && logprob !== null ? `log p ${minus(String(logprob))} (${formatNumber(100 * Math.exp(logprob))} %)` : null,
      ORIGINS[origin],
      overlap ? `in ${ORDERS[overlap]} of the reference` : null,
    ];
    this.tip.replaceChildren(make("code", {}, JSON.stringify(text)), make("span", {}, rows.filter(Boolean).join(" · ")));
    this.tip.classList.add("shown");
    const box = token.getClientRects()[0], own = this.tip.getBoundingClientRect();
    const below = box.bottom + 8 + own.height < innerHeight;
    this.tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - own.width - 8))}px`;
    this.tip.style.top = `${below ? box.bottom + 8 : box.top - own.height - 8}px`;
  }
}

/** Show what would be invisible: the end of a line, and bytes that a later token completes. */
function visible(text) {
  return text.split("\n").flatMap((part, index) => (index ? [make("span", { class: "mark", "aria-hidden": "true" }, "↵"), "\n", part] : [part]));
}

function weightColour(weight, largest) {
  if (!weight || !largest) return "";
  const strength = 0.07 + 0.55 * (Math.abs(weight) / largest);
  return `rgba(var(${weight > 0 ? "--push-up" : "--push-down"}), ${strength.toFixed(3)})`;
}

function originColour(origin) {
  const name = ORIGIN_COLOURS[origin];
  return name ? `rgba(var(${name}), 0.3)` : "";
}

function weightKey(largest) {
  if (!largest) return [make("span", {}, "No token of this group was pushed.")];
  const stops = [-1, -0.5, 0, 0.5, 1].map((share) => weightColour(share * largest, largest) || "transparent");
  return [
    make("span", {}, `down ${minus(formatNumber(-largest))}`),
    make("span", { class: "ramp", style: `background:linear-gradient(90deg,${stops.join(",")})` }),
    make("span", {}, `up +${formatNumber(largest)}`),
  ];
}

function originKey(rollouts) {
  const present = new Set(rollouts.flatMap((rollout) => [rollout.origin].flat()));
  return ORIGINS.map((name, origin) => [name, origin])
    .filter(([, origin]) => present.has(origin))
    .map(([name, origin]) => make("span", {}, make("i", { style: `background:${originColour(origin) || "transparent"};border:1px solid var(--line)` }), name));
}

const ORDERS = [null, "one word", "two words", "three words", "four words or more"];

function overlapColour(order) {
  return order ? `rgba(var(--shared), ${[0, 0.16, 0.3, 0.46, 0.64][order]})` : "";
}

function overlapKey() {
  const orders = ORDERS.slice(1).map((words, index) => make("span", {}, make("i", { style: `background:${overlapColour(index + 1)}` }), words));
  return [make("span", {}, "in a row, shared with the closest reference:"), ...orders];
}

/** Names and values; what is numbered is one row: precision_1, precision_2 become "precision" and "0.9 / 0.5". */
function partsOf(parts) {
  const rows = new Map();
  for (const [name, value] of Object.entries(parts)) {
    const stem = name.replace(/_\d+$/, "").replaceAll("_", " ");
    rows.set(stem, [...(rows.get(stem) ?? []), formatNumber(value)]);
  }
  return [...rows].map(([stem, values]) => [stem, values.join(" / ")]);
}

/** JSON, deflated, in base64. */
async function unpack(data) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
