"use strict";
const root = document.documentElement;
addEventListener("error", (event) => { root.dataset.error = String(event.message); });
{
  const ladders = JSON.parse(document.getElementById("data").textContent);
  const steps = [...document.querySelectorAll(".step")];
  const panels = new Map([...document.querySelectorAll("aside.state")].map((panel) => [panel.dataset.ladder, panel]));
  const chosen = new Map();

  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  // Every field that the run changes: its value after step `last` (counted from 0), and whether that step changed it.
  const fieldsAfter = (ladder, last) => {
    const fields = new Map();
    ladder.steps.forEach((step, at) => {
      for (const [field, before, after] of step.changes) {
        if (!fields.has(field)) fields.set(field, { value: before, now: false });
        if (at <= last) fields.set(field, { value: after, now: at === last });
      }
    });
    return fields;
  };

  const rows = (entries) => {
    const table = element("table");
    for (const [name, value, now] of entries) {
      const row = table.insertRow();
      if (now) row.className = "now";
      row.insertCell().textContent = name;
      row.insertCell().textContent = value;
    }
    return table;
  };

  const held = (ladder, step) => {
    const list = element("ul");
    ladder.threads.forEach((name, thread) => {
      if (step.held[thread].length) list.append(element("li", `${name}: ${step.held[thread].join(", ")}`));
    });
    return list.children.length ? list : element("p", "none", "quiet");
  };

  const show = (mark) => {
    const panel = panels.get(mark.dataset.ladder);
    const ladder = ladders[Number(mark.dataset.ladder)];
    const at = Number(mark.dataset.step) - 1;
    const step = ladder.steps[at];
    panel.replaceChildren(
      element("h3", `After step ${at + 1} of ${ladder.steps.length}`),
      element("p", `${ladder.threads[step.thread]}${step.functions.length ? ": " : ""}${step.functions.join(" \u203a ")}`, "path"),
      element("p", step.words),
      ...step.log.map((line) => element("p", `log: ${line}`, "log")),
      ...step.violated.map((name) => element("p", `violated: ${name}`, "wrong")),
      element("h4", "locks held"),
      held(ladder, step),
    );
    const fields = [...fieldsAfter(ladder, at)].map(([name, { value, now }]) => [name, value, now]);
    if (fields.length) panel.append(element("h4", "fields"), rows(fields));
    panel.dataset.shows = String(at + 1);
  };

  const choose = (mark) => {
    chosen.get(mark.dataset.ladder)?.classList.remove("chosen");
    chosen.set(mark.dataset.ladder, mark);
    mark.classList.add("chosen");
    show(mark);
  };

  // How far a key walks.
  const WALKS = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 };

  steps.forEach((mark, at) => {
    mark.addEventListener("mouseenter", () => show(mark));
    mark.addEventListener("mouseleave", () => { const kept = chosen.get(mark.dataset.ladder); if (kept) show(kept); });
    mark.addEventListener("click", () => choose(mark));
    mark.addEventListener("focus", () => choose(mark));
    mark.addEventListener("keydown", (event) => {
      const to = at + WALKS[event.key];
      if (event.key === "Enter" || event.key === " ") choose(mark);
      else if (steps[to]) steps[to].focus();
      else return;
      event.preventDefault();
    });
  });

  // Before a step is chosen, j and k walk in the ladder that is on the screen: j from its beginning, k from its end.
  addEventListener("keydown", (event) => {
    const walks = "jk".includes(event.key) ? WALKS[event.key] : undefined;
    if (!walks || event.ctrlKey || event.altKey || event.metaKey || event.target.closest?.(".step")) return;
    const seen = ({ top, bottom, height }) => height > 0 && top < innerHeight && bottom > 0;
    const panel = [...panels.values()].find((each) => seen(each.closest(".run").getBoundingClientRect()));
    const own = steps.filter((mark) => mark.dataset.ladder === panel?.dataset.ladder);
    own.at(walks > 0 ? 0 : -2)?.focus();
  });

  // Each ladder opens at its last step: the bad state. A link to a step opens there.
  for (const panel of panels.values()) {
    const own = steps.filter((mark) => mark.dataset.ladder === panel.dataset.ladder);
    if (own.length) choose(own[own.length - 1]);
    // Where the ladder is wider than the screen, the column in which it goes wrong is the one to see.
    const track = panel.closest(".run").querySelector(".track");
    const bad = own.findLast((mark) => mark.classList.contains("bad"));
    if (bad) track.scrollLeft += bad.getBoundingClientRect().left - track.getBoundingClientRect().left - 8;
  }
  const follow = () => {
    const asked = document.getElementById(location.hash.slice(1));
    const folded = asked?.closest("details:not([open])");
    if (folded) {
      folded.open = true;
      asked.scrollIntoView();
    }
    if (asked?.classList.contains("step")) choose(asked);
  };
  addEventListener("hashchange", follow);
  follow();
  root.dataset.ready = String(steps.length);
}
