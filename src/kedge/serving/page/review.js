// What somebody should look at: what the guard held back, and what the reward models disagree on.

import { request } from "./api.js";
import { byId, button, make, promptBlock, shown, textBlock } from "./parts.js";
import { absence } from "./admin.js";

const WHY = { guard: "The guard held it back", disagreement: "The reward models disagree" };

/** The view. */
export class Review {
  constructor(app) {
    this.app = app;
    byId("review-again").addEventListener("click", () => this.open());
  }

  async open() {
    const queue = byId("queue");
    try {
      const { data } = await request("/admin/review?limit=20");
      queue.replaceChildren(...data.map((row) => this.#card(row)));
      if (data.length === 0) queue.append(make("p", { class: "note" }, "Nothing is waiting."));
      this.#state("");
    } catch (error) {
      queue.replaceChildren(absence(error, "There is no queue here. A server that has one was started with --admin-key-file and --feedback."));
    }
  }

  #card(row) {
    const state = make("output", { role: "status" });
    const correction = make("textarea", { rows: 4, dir: "auto", name: "correction" });
    const text = row.text ?? "";
    correction.value = text;
    const verdicts = [["good", "It is good"], ["bad", "It is bad"]].map(
      ([verdict, text]) => button(text, () => judge(verdict), { class: verdict === "bad" ? "danger" : "main" }),
    );
    const card = make(
      "article", { class: "panel", tabindex: -1 },
      make(
        "p", { class: "row" },
        make("strong", { class: `why ${row.why === "guard" ? "guard" : ""}` }, shown(WHY[row.why] ?? row.why)),
        make("span", { class: "version", title: "Version of the weights" }, shown(versionOf(row.version))),
        make("time", {}, whenOf(row.given_at)),
      ),
      row.reason ? textBlock(row.reason, { class: "reason" }) : "",
      promptBlock(row.prompt),
      textBlock(text, { class: "answer" }),
      make("details", {}, make("summary", {}, "Correct it"), make("label", {}, "What it should have been", correction)),
      make("div", { class: "row" }, ...verdicts, state),
    );

    const judge = async (verdict) => {
      const { annotator } = this.app.settings;
      const said = { verdict };
      if (correction.value.trim() && correction.value !== text) said.correction = correction.value;
      if (annotator) said.annotator = annotator;
      verdicts.forEach((each) => { each.disabled = true; });
      try {
        await request(`/admin/review/${encodeURIComponent(row.id)}/${row.index}`, { method: "POST", body: said });
      } catch (error) {
        state.textContent = `Not kept: ${error.message}. Say it again.`;
        verdicts.forEach((each) => { each.disabled = false; });
        return;
      }
      const next = card.nextElementSibling;
      card.remove();
      this.#state("Kept.");
      if (next) next.focus();
      else await this.open(); // there may be more than were shown
    };
    return card;
  }

  #state(text) {
    byId("review-state").textContent = text;
  }
}

function versionOf(version) {
  return typeof version === "number" ? `v${version}` : version ?? "";
}

/** Seconds since 1970, or a date as text. */
function whenOf(given) {
  const date = new Date(typeof given === "number" ? given * 1000 : given);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleString();
}
