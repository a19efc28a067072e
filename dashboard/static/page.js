// What every view does: times in the reader's zone, the theme, parts that keep themselves up to date.

export const root = document.documentElement.dataset.root;

// The one place that makes elements of text, and only of this server's own templates, which escape what they show.
const policy = window.trustedTypes
  ? trustedTypes.createPolicy("luthier", { createHTML: (html) => html })
  : { createHTML: (html) => html };

function parsed(html) {
  return new DOMParser().parseFromString(policy.createHTML(html), "text/html").body;
}

// One of this server's own parts in the place of what was there.
export function put(place, html) {
  const fresh = parsed(html);
  showTimes(fresh);
  place.replaceChildren(...fresh.childNodes);
}

export function showTimes(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const date = new Date(time.getAttribute("datetime"));
    if (Number.isNaN(date.valueOf())) continue;
    time.textContent = date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    time.title = date.toISOString();
  }
}

const connection = document.querySelector("#connection");
let lostSince = null;

export function isConnected(yes) {
  if (yes === (lostSince === null)) return;
  lostSince = yes ? null : new Date();
  connection.hidden = yes;
  connection.textContent = yes ? "" : `The server does not answer. What you see is from ${lostSince.toLocaleTimeString()}; it goes on by itself.`;
}

// Only what is different is put in, so that focus and selection stay where they are.
function swap(part, html) {
  const fresh = parsed(html);
  showTimes(fresh);
  const keyed = (within) => new Map([...within.querySelectorAll("[data-key]")].map((row) => [row.dataset.key, row]));
  const [now, then] = [keyed(fresh), keyed(part)];
  const isSameList = now.size > 0 && now.size === then.size && [...now.keys()].join() === [...then.keys()].join();
  if (isSameList) {
    for (const [key, row] of now) if (!row.isEqualNode(then.get(key))) then.get(key).replaceWith(row);
  } else if (part.innerHTML !== fresh.innerHTML && !part.contains(document.activeElement)) part.replaceChildren(...fresh.childNodes);
}

export async function refresh(part) {
  let reply;
  try {
    reply = await fetch(part.dataset.part, { headers: { "x-part": "1" } });
  } catch {
    isConnected(false);
    part.classList.add("stale");
    return;
  }
  if (reply.status === 401) {
    // What was typed elsewhere on the page stays; only this part stops.
    part.dataset.everyS = "0";
    connection.hidden = false;
    connection.textContent = "Your session is over. Sign in again in another tab, then reload.";
    return;
  }
  isConnected(reply.ok);
  part.classList.toggle("stale", !reply.ok);
  if (reply.ok) swap(part, await reply.text());
}

function keepFresh(part) {
  const everyS = () => Number(part.dataset.everyS);
  const again = async () => {
    if (!everyS()) return;
    if (!document.hidden) await refresh(part);
    setTimeout(again, everyS() * 1000);
  };
  if (everyS()) setTimeout(again, everyS() * 1000);
  document.addEventListener("visibilitychange", () => !document.hidden && everyS() && refresh(part));
}

function theme() {
  const button = document.querySelector("#theme");
  if (!button) return;
  button.hidden = false;
  const html = document.documentElement;
  const names = { "": "Theme: system", light: "Theme: light", dark: "Theme: dark" };
  const show = () => { button.textContent = names[html.dataset.theme ?? ""]; };
  button.addEventListener("click", () => {
    const order = ["", "light", "dark"];
    const next = order[(order.indexOf(html.dataset.theme ?? "") + 1) % 3];
    if (next) html.dataset.theme = next; else delete html.dataset.theme;
    document.cookie = `luthier_theme=${next}; path=/; max-age=${next ? 31536000 : 0}; samesite=lax`;
    show();
  });
  show();
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, textarea, select")) return;
  const search = document.querySelector("input[type=search]");
  if (search) { event.preventDefault(); search.focus(); }
});

showTimes(document);
theme();
for (const part of document.querySelectorAll("[data-part]")) keepFresh(part);
