// Which weights answer, and how good people find what they write.

import { request } from "./api.js";
import { absence } from "./admin.js";
import { charts } from "./chart.js";
import { byId, make, shown } from "./parts.js";
import { nameOf, versionsShown } from "./versions.js";

const NO_ADMIN = "There is nothing here to look after: start the server with --admin-key-file.";
const NO_QUALITY = "Nobody's opinion is kept: start the server with --feedback and --admin-key-file.";

const COLUMNS = [
  ["Day", (row) => row.day], ["Version", (row) => `v${row.version}`], ["From", (row) => row.source],
  ["Answers", (row) => row.answers], ["Tokens", (row) => number(row.tokens)], ["Up", (row) => row.up],
  ["Down", (row) => row.down], ["Score", (row) => number(row.score)], ["Scored", (row) => row.scored],
  ["Corrected", (row) => row.corrected], ["Comments", (row) => row.commented], ["Won", (row) => row.won],
  ["Lost", (row) => row.lost],
];

const number = (value) => (value === null ? "" : value.toFixed(2).replace(/\.?0+$/, ""));

const ACTS = { promote: "Let it answer everybody", rollback: "Go back" };

/** The view. */
export class Board {
  #told = null;
  #act = "rollback";

  constructor() {
    byId("board-again").addEventListener("click", () => this.open());
    byId("days").addEventListener("change", () => this.#quality());
    for (const act of Object.keys(ACTS)) byId(act).addEventListener("click", () => this.#ask(act));
    byId("confirm-no").addEventListener("click", () => byId("confirm").close());
    byId("confirm-yes").addEventListener("click", () => this.#do());
  }

  async open() {
    this.#state("");
    await Promise.all([this.#versions(), this.#quality()]);
  }

  async #versions() {
    try {
      this.#show(await request("/admin/versions"));
    } catch (error) {
      byId("versions").replaceChildren(absence(error, NO_ADMIN));
      for (const act of Object.keys(ACTS)) byId(act).hidden = true;
    }
  }

  #show(told) {
    this.#told = told;
    byId("versions").replaceChildren(...versionsShown(told));
    byId("promote").hidden = !told.canary;
    byId("rollback").hidden = !told.canary && !told.before;
    byId("rollback").textContent = told.canary ? "End the trial" : "Go back to the version before";
  }

  /** What would come of it, before it is done. */
  #ask(act) {
    const { live, before, canary } = this.#told;
    this.#act = act;
    byId("confirm-title").textContent = act === "promote" ? "Let it answer everybody?" : canary ? "End the trial?" : "Go back?";
    byId("confirm-yes").textContent = act === "rollback" && canary ? "End it" : ACTS[act];
    byId("confirm-text").replaceChildren("From now on ", ...consequence(act, live, before, canary), " What is being written ends with the weights it began with.");
    byId("confirm").showModal();
  }

  async #do() {
    byId("confirm").close();
    try {
      const now = await request("/admin/versions");
      if (standing(now) !== standing(this.#told)) { // a trial may have ended by itself
        this.#show(now);
        this.#state("Nothing was done: the versions have changed meanwhile. Look at them first.");
        return;
      }
      const told = await request(`/admin/${this.#act}`, { method: "POST" });
      this.#show(told);
      this.#state(`v${told.live.version} answers now.`);
    } catch (error) {
      this.#state(`Nothing has changed: ${error.message}`);
    }
  }

  async #quality() {
    const place = byId("quality");
    try {
      const { data } = await request(`/admin/quality?days=${byId("days").value}`);
      place.replaceChildren(...(data.length ? [...charts(data), table(data)] : [make("p", { class: "note" }, "There were no answers in these days.")]));
    } catch (error) {
      place.replaceChildren(absence(error, NO_QUALITY));
    }
  }

  #state(text) {
    byId("board-state").textContent = text;
  }
}

function consequence(act, live, before, canary) {
  if (act === "promote") return [nameOf(canary), " answers everybody instead of ", nameOf(live), "."];
  if (canary) return [nameOf(live), " answers everybody again, and ", nameOf(canary), " nobody."];
  return [nameOf(before), " answers instead of ", nameOf(live), "."];
}

/** Which version has which role. */
const standing = (told) => JSON.stringify([told.live, told.before, told.canary].map((each) => each?.version ?? null));

function table(rows) {
  const newestFirst = [...rows].reverse();
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Quality by day and version" }, make(
    "table", {},
    make("thead", {}, make("tr", {}, ...COLUMNS.map(([name]) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...newestFirst.map((row) => make(
      "tr", {}, ...COLUMNS.map(([, of]) => make("td", {}, make("bdi", {}, shown(of(row))))),
    ))),
  ));
}
