// The sample browser: step, groups, and their rollouts by rank, those the policy was pushed towards beside the others.

const PROMPTS_SHOWN = 4; // at once, fewer where their completions have more tokens than
const TOKENS_SHOWN = 2500;

class SampleBrowser extends TokenView {
  constructor(steps, host) {
    super(["weight", "origin", "overlap"]);
    this.steps = steps;
    this.host = host;
    this.place = steps.length - 1;
    this.group = Math.max(0, steps[this.place].groups.findIndex((group) => group.pushed.some(Boolean)));
    this.list = make("div", { class: "groups", role: "group", "aria-label": "Groups of this step" });
    host.append(this.bar(), make("div", { class: "browser" }, this.list, this.detail));
    this.showStep(this.place);
  }

  bar() {
    this.slider = make("input", { type: "range", min: 0, max: this.steps.length - 1, value: this.place, "aria-label": "Step of the samples" });
    this.slider.addEventListener("input", () => this.showStep(Number(this.slider.value)));
    this.label = make("output");
    this.byOverlap = this.modeButtons[2];
    return make("div", { class: "samples-bar" }, make("div", { class: "stepper" }, this.label, this.slider), this.modeChoice());
  }

  paint() {
    super.paint();
    this.clamp();
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
    this.detail.replaceChildren(this.key, ...this.records.flatMap((record, number) => this.groupElements(record, number, groups[number].example_id)));
    this.paint();
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
        rollout.versions ? make("span", { class: "tag" }, `policies ${rollout.versions.map(([version]) => version).join(", ")}`) : null,
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
    const tokens = this.tokens(rollout, place);
    return make("div", {}, make("h4", {}, "Completion"), tokens);
  }
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
