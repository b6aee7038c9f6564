"use strict";
// Asks for the page every five seconds and puts its <main> in this one's place; what was opened stays open. A page that
// nobody sees asks for nothing until it is seen again, and while text is selected nothing moves. Where no answer comes, the
// title and the heading's colour say so: the last state is not that of now.
const shown = { title: document.title, at: new Date() };

function utc(moment) {
  return `${moment.toISOString().slice(11, 19)} UTC`;
}

function tell(problem) {
  const stale = document.getElementById("stale");
  stale.hidden = !problem;
  stale.textContent = problem && `${problem}; what is shown is of ${utc(shown.at)}.`;
  document.body.classList.toggle("stale", Boolean(problem));
  document.title = problem ? `no answer \u00b7 ${shown.title.split(" \u00b7 ").pop()}` : shown.title;
}

async function refresh() {
  if (document.hidden || getSelection().type === "Range") return;
  try {
    const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!answer.ok) return tell(`The worker answered ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const opened of document.querySelectorAll("details[open]")) fresh.getElementById(opened.id).open = true;
    const focused = document.activeElement.id;
    document.querySelector("main").replaceWith(fresh.querySelector("main"));
    shown.title = fresh.title;
    shown.at = new Date();
    tell("");
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  } catch {
    tell("No answer from the worker");
  }
}

document.addEventListener("visibilitychange", refresh);
setInterval(refresh, 5000);
