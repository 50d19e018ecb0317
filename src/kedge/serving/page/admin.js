// What the administrators' views say when there is nothing to show.

import { make, shown } from "./parts.js";
import { Dropped, Refusal } from "./api.js";

/** A paragraph for an error; `missing` is said where the route does not exist. */
export function absence(error, missing) {
  if (error instanceof Dropped) return make("p", { class: "note bad" }, "The server does not answer. Look again in a moment.");
  if (!(error instanceof Refusal)) throw error;
  if (error.status === 401) return make("p", { class: "note" }, "This is seen with an administrator's key.");
  if (error.status === 404) return make("p", { class: "note" }, missing);
  return make("p", { class: "note bad", dir: "auto" }, shown(error.message));
}
