"use strict";
// Asks for the page every five seconds and puts its <main> in this one's place; what was opened stays open. A page that
// nobody sees asks for nothing, and while text is selected nothing moves.
let answered = new Date();

async function refresh() {
  if (document.hidden || getSelection().type === "Range") return;
  const stale = document.getElementById("stale");
  try {
    const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!answer.ok) throw new Error(answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const opened of document.querySelectorAll("details[open]")) fresh.getElementById(opened.id).open = true;
    const focused = document.activeElement.id;
    document.querySelector("main").replaceWith(fresh.querySelector("main"));
    document.title = fresh.title;
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    answered = new Date();
    stale.hidden = true;
  } catch {
    stale.textContent = `No answer from the worker; what is shown is of ${answered.toLocaleTimeString()}.`;
    stale.hidden = false;
  }
}

setInterval(refresh, 5000);
