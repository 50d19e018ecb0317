// Which weights answer, and how good people find what they write.

import { request } from "./api.js";
import { absence } from "./admin.js";
import { charts } from "./chart.js";
import { byId, make, shown } from "./parts.js";

const ROLES = { live: "Answers now", before: "The one before", canary: "Canary" };
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

/** The view. */
export class Board {
  constructor() {
    byId("board-again").addEventListener("click", () => this.open());
    byId("days").addEventListener("change", () => this.#quality());
    byId("rollback").addEventListener("click", () => byId("confirm").showModal());
    byId("confirm-no").addEventListener("click", () => byId("confirm").close());
    byId("confirm-yes").addEventListener("click", () => this.#rollBack());
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
      byId("rollback").hidden = true;
    }
  }

  /** Whatever the server tells of its versions, by role. */
  #show(told) {
    const cards = Object.entries(told).filter(([, version]) => version !== null).map(([role, version]) => make(
      "article", { class: "panel" }, make("h3", {}, shown(ROLES[role] ?? role)), facts(version),
    ));
    byId("versions").replaceChildren(...cards);
    byId("rollback").hidden = !told.before;
    if (told.before) {
      byId("confirm-text").replaceChildren(
        "From now on ", make("bdi", {}, shown(`v${told.before.version} (${told.before.source})`)),
        " answers instead of ", make("bdi", {}, shown(`v${told.live.version} (${told.live.source})`)),
        ". What is being written ends with the weights it began with.",
      );
    }
  }

  async #rollBack() {
    byId("confirm").close();
    try {
      const told = await request("/admin/rollback", { method: "POST" });
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

function facts(value) {
  if (value === null || typeof value !== "object") return make("bdi", {}, shown(value));
  return make("dl", {}, ...Object.entries(value).filter(([, each]) => each !== null).flatMap(([name, each]) => [
    make("dt", {}, shown(name.replaceAll("_", " "))), make("dd", {}, facts(each)),
  ]));
}

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
