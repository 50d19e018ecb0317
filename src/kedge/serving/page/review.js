// What somebody should look at: what the guard held back, and what the reward models disagree on.

import { Refusal, request } from "./api.js";
import { byId, button, make, promptBlock, shown, textBlock } from "./parts.js";
import { absence } from "./admin.js";

/** The view. */
export class Review {
  constructor(app) {
    this.app = app;
    byId("review-again").addEventListener("click", () => this.open());
  }

  async open() {
    const queue = byId("queue");
    try {
      const { data, waiting } = await request("/admin/review?limit=20");
      queue.replaceChildren(...data.map((row) => this.#card(row)));
      if (data.length === 0) queue.append(make("p", { class: "note" }, "Nothing is waiting."));
      this.#state(waiting > data.length ? `These are the first of ${waiting}.` : "");
    } catch (error) {
      queue.replaceChildren(absence(error, "There is no queue here. A server that has one was started with --admin-key-file and --feedback."));
    }
  }

  #card(row) {
    const state = make("output", { role: "status" });
    const correction = make("textarea", { rows: 4, dir: "auto", name: "correction" });
    correction.value = row.text;
    const verdicts = [["good", "It is good"], ["bad", "It is bad"]].map(
      ([verdict, text]) => button(text, () => judge(verdict), { class: verdict === "bad" ? "danger" : "main" }),
    );
    const card = make(
      "article", { class: "panel", tabindex: -1 },
      make(
        "p", { class: "row" },
        why(row),
        make("span", { class: "version", title: "Version of the weights" }, `v${row.version}`),
        make("time", {}, new Date(row.created * 1000).toLocaleString()),
      ),
      reasons(row.held ?? []),
      promptBlock(row.prompt),
      ...written(row),
      make("details", {}, make("summary", {}, "Correct it"), make("label", {}, "What it should have been", correction)),
      make("div", { class: "row" }, ...verdicts, state),
    );

    const judge = async (verdict) => {
      const { annotator } = this.app.settings;
      const said = { verdict };
      if (correction.value.trim() && correction.value !== row.text) said.correction = correction.value;
      if (annotator) said.annotator = annotator;
      verdicts.forEach((each) => { each.disabled = true; });
      let kept = "Kept.";
      try {
        await request(`/admin/review/${encodeURIComponent(row.id)}/${row.index}`, { method: "POST", body: said });
      } catch (error) {
        if (!(error instanceof Refusal && error.code === "already_reviewed")) {
          state.textContent = `Not kept: ${error.message}. Say it again.`;
          verdicts.forEach((each) => { each.disabled = false; });
          return;
        }
        kept = "Somebody else has said it before you.";
      }
      const next = card.nextElementSibling;
      card.remove();
      if (next) next.focus();
      else await this.open(); // there may be more than were shown
      this.#state(kept);
    };
    return card;
  }

  #state(text) {
    byId("review-state").textContent = text;
  }
}

/** Why it is here: what was held comes before what is not agreed on. */
function why({ held, disagreement }) {
  if (held) return make("strong", { class: "why guard" }, "The guard acted");
  return make("strong", { class: "why" }, `The reward models disagree: ${disagreement.toFixed(3)}`);
}

function reasons(held) {
  if (held.length === 0) return "";
  return make("ul", { class: "reason" }, ...held.map((each) => make(
    "li", {}, make("bdi", {}, shown(each.rule)), ` (${each.did}, on the ${each.on}): `, make("bdi", {}, shown(each.reason)),
  )));
}

/** What the model wrote; and what the person was given, where that was something else. */
function written({ text, told }) {
  if (told === null) return [textBlock(text, { class: "answer" })];
  return [
    make("small", {}, "What the model wrote"), textBlock(text, { class: "answer" }),
    make("small", {}, "What the person was given"), textBlock(told, { class: "told" }),
  ];
}
