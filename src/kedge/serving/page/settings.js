// How answers are asked for, and who asks.

import { byId } from "./parts.js";
import { keepField } from "./kept.js";

const NUMBERS = ["temperature", "max_tokens", "seed"];

/** The fields; `body()` and `annotator` are what they say now. */
export class Settings {
  constructor() {
    this.panel = byId("settings");
    this.form = this.panel.querySelector("form");
    for (const field of this.form.elements) keepField(field, `settings.${field.name}`);
    this.form.addEventListener("input", () => this.#say());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.#say();
  }

  /** Whether a request can be made of them; if not, the browser says which one is wrong. */
  areValid() {
    if (this.form.checkValidity()) return true;
    this.panel.open = true;
    this.form.reportValidity();
    return false;
  }

  /** Parameters of a request: those that were given. */
  body() {
    const given = NUMBERS.filter((name) => this.#value(name) !== "").map((name) => [name, Number(this.#value(name))]);
    return { ...Object.fromEntries(given), ...(this.annotator ? { user: this.annotator } : {}) };
  }

  get annotator() {
    return this.#value("annotator").trim();
  }

  #value(name) {
    return this.form.elements[name].value;
  }

  #say() {
    const given = NUMBERS.filter((name) => this.#value(name) !== "")
      .map((name) => `${name.replace("_", " ")} ${this.#value(name)}`);
    byId("settings-now").textContent = `${given.join(", ") || "as trained"}; ${this.annotator || "no name"}`;
  }
}
