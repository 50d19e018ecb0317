// The versions of the weights in words: which of them answers, how one on trial stands, and what was changed.

import { make, shown } from "./parts.js";

const ROLES = { live: "Answers now", before: "The one before" };

const MEASURES = {
  reward: "Reward", thumbs: "Thumbs that are up", held: "Held by the guard", tokens: "Tokens of an answer",
  seconds_a_token: "Seconds a token",
};

/** A version's number and where it is from. */
export const nameOf = (version) => make("bdi", {}, shown(`v${version.version} (${version.source})`));

/** All of it. */
export function versionsShown(told) {
  const cards = Object.entries(ROLES).filter(([role]) => told[role]).map(([role, title]) => make(
    "article", { class: "panel" }, make("h3", {}, title), facts(told[role]),
  ));
  return [
    make("div", { class: "cards" }, ...cards),
    ...(told.canary ? [trial(told.canary)] : []),
    ...(told.history.length ? [history(told.history)] : []),
  ];
}

function facts(version) {
  return make("dl", {}, ...Object.entries(version).filter(([, each]) => each !== null).flatMap(([name, each]) => [
    make("dt", {}, shown(name.replaceAll("_", " "))), make("dd", {}, make("bdi", {}, shown(each))),
  ]));
}

/** A version on trial beside the present one, measure by measure. */
function trial(canary) {
  const rows = Object.entries(canary.measures).map(([name, { present, candidate, difference }]) => make(
    "tr", {}, make("th", { scope: "row" }, shown(MEASURES[name] ?? name)), make("td", {}, mean(present)),
    make("td", {}, mean(candidate)), make("td", {}, difference === null ? "" : difference.map(signed).join(" to ")),
  ));
  const columns = ["Mean (answers)", "Now", "On trial", "Apart by (sure at all times)"];
  return make(
    "article", { id: "canary", class: "panel" }, make("h3", {}, "On trial"),
    make("p", { class: "note" }, nameOf(canary), ` answers ${(100 * canary.share).toFixed(3).replace(/\.?0+$/, "")}% of the people.`),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "How the version on trial stands" }, make(
      "table", { class: "measures" },
      make("thead", {}, make("tr", {}, ...columns.map((each) => make("th", { scope: "col" }, each)))),
      make("tbody", {}, ...rows),
    )),
  );
}

const precise = (value) => Number(value.toPrecision(3)).toString();
const signed = (value) => (value > 0 ? `+${precise(value)}` : precise(value));
const mean = ({ mean, count }) => (count ? `${precise(mean)} (${count})` : "");

/** What was changed: the newest first. */
function history(changes) {
  return make("details", { id: "history", class: "panel" }, make("summary", {}, `What was changed: ${changes.length}`), make(
    "ol", { reversed: true }, ...[...changes].reverse().map((each) => make(
      "li", {}, nameOf(each), ` ${each.did} `, make("time", {}, new Date(each.time * 1000).toLocaleString()),
      each.why ? make("div", { class: "reason" }, make("bdi", {}, shown(each.why))) : "",
    )),
  ));
}
