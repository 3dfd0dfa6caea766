// The pages' behaviour, in Airflow's frame or in a tab of their own. Loaded before the body, so that it is drawn in the right theme.
"use strict";

const root = document.documentElement;
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const darkMode = matchMedia("(prefers-color-scheme: dark)");

/** Airflow's window around this frame; null if the page is in a tab of its own. */
function airflowWindow() {
  try {
    return window.parent !== window && window.parent.document.body ? window.parent : null;
  } catch {
    return null; // another origin's frame
  }
}

/** A setting that Airflow's UI stores; null if it may not be read. */
function storedSetting(name) {
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
  const chosen = storedSetting("theme");
  if (chosen === "dark" || chosen === "light") return chosen;
  return darkMode.matches ? "dark" : "light";
}

function followTheme() {
  const apply = () => (root.dataset.theme = theme());
  apply();
  darkMode.addEventListener("change", apply);
  window.addEventListener("storage", apply);
  const airflow = airflowWindow();
  if (!airflow) return;
  const observer = new MutationObserver(apply);
  observer.observe(airflow.document.documentElement, { attributes: true, attributeFilter: ["class"] });
  window.addEventListener("pagehide", () => observer.disconnect());
  window.addEventListener("pageshow", (event) => event.persisted && followTheme());
}

// Times

/** The time zone that the user chose in Airflow, else the browser's. */
function timeZone() {
  const stored = storedSetting("timezone");
  if (!stored) return undefined;
  try {
    const zone = stored.startsWith('"') ? JSON.parse(stored) : stored;
    new Intl.DateTimeFormat("en", { timeZone: zone });
    return zone;
  } catch {
    return undefined;
  }
}

function writeTimes(container) {
  const format = new Intl.DateTimeFormat("en-CA", {
    timeZone: timeZone(),
    dateStyle: "short",
    timeStyle: "medium",
    hourCycle: "h23",
  });
  for (const element of container.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    element.textContent = format.format(moment).replace(", ", " ");
    element.title = element.dateTime;
  }
}

// Links: Airflow's frame may not open a tab or navigate its parent; Airflow's own document may.

const ROUTER_MILLISECONDS = 1500;

function clickIn(airflow, href, target) {
  const anchor = airflow.document.createElement("a");
  Object.assign(anchor, { href, target, rel: "noopener noreferrer", hidden: true });
  airflow.document.body.append(anchor);
  anchor.click();
  anchor.remove();
}

/** Navigates with Airflow's router, without loading its UI again; if this frame is still there later, with a load. */
function navigateAirflow(airflow, href) {
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
  const newTab = event.button === 1 || event.ctrlKey || event.metaKey || event.shiftKey;
  if (newTab || "externalLink" in link.dataset) clickIn(airflow, link.href, "_blank");
  else navigateAirflow(airflow, link.href);
}

// The task's page refreshes while its video renders

const MAX_REFRESH_MILLISECONDS = 60_000;

function isPlaying(main) {
  const video = main.querySelector("video");
  return Boolean(document.fullscreenElement) || Boolean(video && !video.paused && !video.ended);
}

/** The current page's main element; null if the page is gone. */
async function fetchMain() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
  if (answer.status >= 500) throw new Error(`status ${answer.status}`);
  if (!answer.ok) return null;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  return page.querySelector("main[data-testid=task-page]");
}

function swapMain(old, fresh) {
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  const before = announcement(old);
  const video = old.querySelector("video");
  const next = fresh.querySelector("video");
  if (video && next && video.getAttribute("src") === next.getAttribute("src")) next.replaceWith(video);
  old.replaceWith(fresh);
  writeTimes(fresh);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  if (announcement(fresh) !== before) document.getElementById("announcer").textContent = announcement(fresh);
}

function announcement(main) {
  return main.querySelector("[data-announce]")?.textContent.replace(/\s+/g, " ").trim() ?? "";
}

function keepFresh() {
  let served = document.querySelector("main")?.outerHTML;
  let failures = 0;
  let timer = 0;
  const schedule = () => {
    const wanted = Number(document.querySelector("main")?.dataset.refreshSeconds) * 1000;
    clearTimeout(timer);
    if (wanted > 0) timer = setTimeout(refresh, Math.max(Math.min(wanted * 2 ** failures, MAX_REFRESH_MILLISECONDS), wanted));
  };
  const refresh = async () => {
    const main = document.querySelector("main");
    if (document.hidden || isPlaying(main)) return schedule();
    try {
      const fresh = await fetchMain();
      if (!fresh) return;
      failures = 0;
      if (fresh.querySelector("video") && !main.querySelector("video")) return location.reload(); // its content security policy allows the video
      const text = fresh.outerHTML;
      if (text !== served && !isPlaying(main)) {
        swapMain(main, document.adoptNode(fresh));
        served = text;
      }
    } catch {
      failures += 1; // the server does not answer: try again, less and less often
    }
    schedule();
  };
  document.addEventListener("visibilitychange", () => document.hidden || schedule());
  schedule();
}

// Videos

function showProblem(event) {
  const broken = event.target;
  if (broken.matches?.(".preview img")) {
    const preview = broken.parentElement;
    broken.remove();
    addVideo(preview, "metadata");
  } else if (broken.matches?.(".preview video")) {
    const placeholder = document.createElement("span");
    placeholder.className = "placeholder";
    placeholder.textContent = "The video cannot be shown";
    broken.parentElement.removeAttribute("data-preview");
    broken.replaceWith(placeholder);
  } else if (broken.id === "video") {
    broken.closest("figure").querySelector("[data-player-problem]").hidden = false;
  }
}

function addVideo(preview, preload) {
  const video = document.createElement("video");
  Object.assign(video, { preload, muted: true, loop: true, playsInline: true, tabIndex: -1 });
  video.setAttribute("aria-hidden", "true");
  video.src = preview.dataset.preview;
  preview.prepend(video);
  return video;
}

/** A card without a poster shows its video's first frame, which is fetched when the card becomes visible. */
function showFirstFrames() {
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      if (!target.querySelector("video")) addVideo(target, "metadata");
    }
  });
  for (const preview of document.querySelectorAll(".preview[data-preview]:not(:has(img))")) observer.observe(preview);
}

/** A card plays its video while the pointer is on it or it has the focus. */
function playPreviews() {
  for (const card of document.querySelectorAll(".card:has([data-preview])")) {
    const preview = card.querySelector(".preview");
    let timer = 0;
    const begin = () => {
      if (reducedMotion.matches || !preview.dataset.preview) return;
      timer = setTimeout(() => {
        const video = preview.querySelector("video") ?? addVideo(preview, "auto");
        video.play().then(() => preview.classList.add("plays")).catch(() => {});
      }, 200);
    };
    const end = () => {
      clearTimeout(timer);
      preview.classList.remove("plays");
      const video = preview.querySelector("video");
      if (!video) return;
      video.pause();
      if (preview.querySelector("img")) video.remove();
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
  const section = document.querySelector("[data-balances]");
  if (!section) return;
  const text = section.querySelector("[data-balances-text]");
  text.textContent = "Reading the balances…";
  try {
    const answer = await fetch(section.dataset.balances, { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const fragment = new DOMParser().parseFromString(await answer.text(), "text/html");
    section.replaceChildren(...fragment.body.childNodes);
  } catch {
    text.textContent = "The balances could not be read.";
  }
  section.removeAttribute("aria-busy");
}

/** A choice by pointer is applied at once; by keyboard with Enter, because the arrow keys pass other options. */
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
  writeTimes(document);
  window.addEventListener("storage", () => writeTimes(document));
  airflowWindow()?.addEventListener("local-storage", () => writeTimes(document));
  loadBalances();
  submitFilters();
  showFirstFrames();
  playPreviews();
  keepFresh();
});
