// The pages' behaviour, in Airflow's frame or alone in a tab. Loaded before the body, so that the theme is right at once.
"use strict";

const root = document.documentElement;
const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const darkness = matchMedia("(prefers-color-scheme: dark)");

/** Airflow's own window around this frame; null where the page stands alone. */
function airflowWindow() {
  try {
    return window.parent !== window && window.parent.document.body ? window.parent : null;
  } catch {
    return null; // another origin's frame
  }
}

/** What Airflow's UI remembers under a name; null where it may not be read. */
function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

// Theme

function theme() {
  const classes = airflowWindow()?.document.documentElement.classList;
  if (classes?.contains("dark")) return "dark";
  if (classes?.contains("light")) return "light";
  const chosen = remembered("theme");
  if (chosen === "dark" || chosen === "light") return chosen;
  return darkness.matches ? "dark" : "light";
}

function followTheme() {
  const apply = () => (root.dataset.theme = theme());
  apply();
  darkness.addEventListener("change", apply);
  window.addEventListener("storage", apply);
  const airflow = airflowWindow();
  if (!airflow) return;
  const observer = new MutationObserver(apply);
  observer.observe(airflow.document.documentElement, { attributes: true, attributeFilter: ["class"] });
  window.addEventListener("pagehide", () => observer.disconnect());
  window.addEventListener("pageshow", (event) => event.persisted && followTheme());
}

// Moments

/** The time zone that the person has chosen in Airflow, else the browser's. */
function timeZone() {
  const stored = remembered("timezone");
  if (!stored) return undefined;
  try {
    const zone = stored.startsWith('"') ? JSON.parse(stored) : stored;
    new Intl.DateTimeFormat("en", { timeZone: zone });
    return zone;
  } catch {
    return undefined;
  }
}

function writeMoments(place) {
  const format = new Intl.DateTimeFormat("en-CA", {
    timeZone: timeZone(),
    dateStyle: "short",
    timeStyle: "medium",
    hourCycle: "h23",
  });
  for (const element of place.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    element.textContent = format.format(moment).replace(", ", " ");
    element.title = element.dateTime;
  }
}

// Links: the frame may neither leave for another page at its top nor open a tab; Airflow's own document may.

const ROUTER_MILLISECONDS = 1500;

function clickIn(airflow, href, target) {
  const stand = airflow.document.createElement("a");
  Object.assign(stand, { href, target, rel: "noopener noreferrer", hidden: true });
  airflow.document.body.append(stand);
  stand.click();
  stand.remove();
}

/** Leads Airflow's router on without loading its UI anew; where this frame outlives that, it is loaded anew. */
function leadAirflow(airflow, href) {
  const { history, PopStateEvent } = airflow;
  history.pushState({ idx: (history.state?.idx ?? 0) + 1 }, "", href);
  airflow.dispatchEvent(new PopStateEvent("popstate", { state: history.state }));
  setTimeout(() => clickIn(airflow, href, "_self"), ROUTER_MILLISECONDS);
}

function followLink(event) {
  const link = event.target.closest?.("a[data-airflow-link], a[data-external-link]");
  const airflow = airflowWindow();
  if (!link || !airflow || event.button > 1 || !link.protocol.startsWith("http")) return;
  event.preventDefault();
  const apart = event.button === 1 || event.ctrlKey || event.metaKey || event.shiftKey;
  if (apart || "externalLink" in link.dataset) clickIn(airflow, link.href, "_blank");
  else leadAirflow(airflow, link.href);
}

// The task's page looks again while its clip renders

const PATIENCE = 60_000;

function isWatching(main) {
  const video = main.querySelector("video");
  return Boolean(document.fullscreenElement) || Boolean(video && !video.paused && !video.ended);
}

/** The page as it is now: its main element, or null where it cannot be had any more. */
async function fetchMain() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
  if (answer.status >= 500) throw new Error(`status ${answer.status}`);
  if (!answer.ok) return null;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  return page.querySelector("main[data-testid=task-page]");
}

function swapMain(old, fresh) {
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  const said = announcement(old);
  const video = old.querySelector("video");
  const next = fresh.querySelector("video");
  if (video && next && video.getAttribute("src") === next.getAttribute("src")) next.replaceWith(video);
  old.replaceWith(fresh);
  writeMoments(fresh);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  if (announcement(fresh) !== said) document.getElementById("announcer").textContent = announcement(fresh);
}

function announcement(main) {
  return main.querySelector("[data-announce]")?.textContent.replace(/\s+/g, " ").trim() ?? "";
}

function keepLooking() {
  let served = document.querySelector("main")?.outerHTML;
  let misses = 0;
  let timer = 0;
  const pause = () => {
    const wanted = Number(document.querySelector("main")?.dataset.refreshSeconds) * 1000;
    clearTimeout(timer);
    if (wanted > 0) timer = setTimeout(look, Math.max(Math.min(wanted * 2 ** misses, PATIENCE), wanted));
  };
  const look = async () => {
    const main = document.querySelector("main");
    if (document.hidden || isWatching(main)) return pause();
    try {
      const fresh = await fetchMain();
      if (!fresh) return;
      misses = 0;
      if (fresh.querySelector("video") && !main.querySelector("video")) return location.reload(); // for the policy that lets it play
      const text = fresh.outerHTML;
      if (text !== served && !isWatching(main)) {
        swapMain(main, document.adoptNode(fresh));
        served = text;
      }
    } catch {
      misses += 1; // the server is away: look again, ever more rarely
    }
    pause();
  };
  document.addEventListener("visibilitychange", () => document.hidden || pause());
  pause();
}

// Clips

function showProblem(event) {
  const broken = event.target;
  if (broken.matches?.(".picture img")) {
    const picture = broken.parentElement;
    broken.remove();
    addVideo(picture, "metadata");
  } else if (broken.matches?.(".picture video")) {
    const vacancy = document.createElement("span");
    vacancy.className = "vacancy";
    vacancy.textContent = "The clip cannot be shown";
    broken.parentElement.removeAttribute("data-preview");
    broken.replaceWith(vacancy);
  } else if (broken.id === "clip") {
    broken.closest("figure").querySelector("[data-player-problem]").hidden = false;
  }
}

function addVideo(picture, preload) {
  const video = document.createElement("video");
  Object.assign(video, { preload, muted: true, loop: true, playsInline: true, tabIndex: -1 });
  video.setAttribute("aria-hidden", "true");
  video.src = picture.dataset.preview;
  picture.prepend(video);
  return video;
}

/** A card without a poster shows its clip's first frame, fetched only when the card is seen. */
function showFirstFrames() {
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      if (!target.querySelector("video")) addVideo(target, "metadata");
    }
  });
  for (const picture of document.querySelectorAll(".picture[data-preview]:not(:has(img))")) observer.observe(picture);
}

/** A card plays its clip while it is pointed at or holds the focus. */
function playPreviews() {
  for (const card of document.querySelectorAll(".card:has([data-preview])")) {
    const picture = card.querySelector(".picture");
    let timer = 0;
    const begin = () => {
      if (stillness.matches || !picture.dataset.preview) return;
      timer = setTimeout(() => {
        const video = picture.querySelector("video") ?? addVideo(picture, "auto");
        video.play().then(() => picture.classList.add("plays")).catch(() => {});
      }, 200);
    };
    const end = () => {
      clearTimeout(timer);
      picture.classList.remove("plays");
      const video = picture.querySelector("video");
      if (!video) return;
      video.pause();
      if (picture.querySelector("img")) video.remove();
      else video.currentTime = 0;
    };
    card.addEventListener("pointerenter", begin);
    card.addEventListener("pointerleave", end);
    card.addEventListener("focusin", begin);
    card.addEventListener("focusout", end);
  }
}

// Gallery

async function loadBalances() {
  const place = document.querySelector("[data-balances]");
  if (!place) return;
  const text = place.querySelector("[data-balances-text]");
  text.textContent = "Reading the balances…";
  try {
    const answer = await fetch(place.dataset.balances, { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const fragment = new DOMParser().parseFromString(await answer.text(), "text/html");
    place.replaceChildren(...fragment.body.childNodes);
  } catch {
    text.textContent = "The balances could not be read.";
  }
  place.removeAttribute("aria-busy");
}

/** A choice by pointer is taken at once; by keyboard, with Enter, as choosing passes by what is not meant. */
function submitFilters() {
  const form = document.querySelector("[data-filters]");
  if (!form) return;
  let byKey = false;
  form.addEventListener("keydown", () => (byKey = true));
  form.addEventListener("pointerdown", () => (byKey = false));
  form.addEventListener("change", () => byKey || form.requestSubmit());
  form.addEventListener("formdata", ({ formData }) => {
    for (const [name, value] of [...formData]) if (!value) formData.delete(name);
  });
}

followTheme();
document.addEventListener("click", followLink);
document.addEventListener("auxclick", followLink);
document.addEventListener("error", showProblem, true);
document.addEventListener("DOMContentLoaded", () => {
  writeMoments(document);
  window.addEventListener("storage", () => writeMoments(document));
  airflowWindow()?.addEventListener("local-storage", () => writeMoments(document));
  loadBalances();
  submitFilters();
  showFirstFrames();
  playPreviews();
  keepLooking();
});
