// The page's one connection to the studio: polls the state of a project, sends what the creator does, keeps edits that
// could not be sent, and draws the top bar, the action row and the setup notes. Knows no video and no cards.
//
// Rule S1: everything that comes from a person, a file or a model reaches the document through textContent, value or a
// URL property. Nothing here builds markup from strings.
(() => {
  "use strict";

  const VISIBLE_MS = 1000, HIDDEN_MS = 10000, MISSING_MS = 15000, TROUBLE_MS = 4000, TIMEOUT_MS = 8000, SAVE_MS = 500, UNDO_MS = 10000, SPEAK_MS = 10000;
  const ROOT = () => document.baseURI.replace(/[?#].*$/, "").replace(/\/$/, "") + "/gradio_api/studio/p/";
  const ID = /^[a-z0-9]{26}$/;

  const svi = (window.svi = {
    state: null, setup: {}, form: { length: 6, variant: "film", quality: "balanced", size: "sd" },
    parts: {}, elements: {}, online: true, failures: 0, missing: false,
  });

  // ---- small tools -------------------------------------------------------------------------------------------------

  const ICONS = {
    play: "M8 5.5v13l11-6.5z", pause: "M7 5h3.6v14H7zM13.4 5H17v14h-3.6z",
    sound: "M4 9.5h3.4L12 5.6v12.8l-4.6-3.9H4zM15 8.8a4.4 4.4 0 0 1 0 6.4M17.4 6.4a8 8 0 0 1 0 11.2",
    muted: "M4 9.5h3.4L12 5.6v12.8l-4.6-3.9H4zM15.5 9.5l5 5M20.5 9.5l-5 5",
    full: "M5 9.5V5h4.5M14.5 5H19v4.5M19 14.5V19h-4.5M9.5 19H5v-4.5",
    more: "M6 12h.01M12 12h.01M18 12h.01", grip: "M9 6h.01M15 6h.01M9 12h.01M15 12h.01M9 18h.01M15 18h.01",
    left: "M14.5 6.5 9 12l5.5 5.5", right: "M9.5 6.5 15 12l-5.5 5.5", down: "m6.5 9.5 5.5 5.5 5.5-5.5",
    stop: "M7 7h10v10H7z", plus: "M12 5.5v13M5.5 12h13", close: "M6.5 6.5l11 11M17.5 6.5l-11 11",
    theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
    download: "M12 4.5v10M7.5 10.5 12 15l4.5-4.5M5 19h14", link: "M10 14a4 4 0 0 0 5.7 0l3-3a4 4 0 0 0-5.7-5.7l-1 1M14 10a4 4 0 0 0-5.7 0l-3 3A4 4 0 0 0 11 18.7l1-1",
    keys: "M4 7.5h16v9H4zM7.5 10.5h.01M11 10.5h.01M14.5 10.5h.01M8 13.8h8",
    both: "M4 6.5h7v11H4zM13.5 6.5h6.5v11h-6.5z",
    note: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM12 11v5M12 8h.01",
  };
  const FILLED = new Set(["play", "pause", "stop"]);

  svi.icon = (name) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    svg.classList.add("icon");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", ICONS[name]);
    if (FILLED.has(name)) path.classList.add("filled");
    svg.append(path);
    return svg;
  };

  // el("button.quiet", {onclick, title}, child, "text"): text children become text nodes, never markup.
  svi.el = (tag, props = {}, ...children) => {
    const [name, ...classes] = tag.split(".");
    const node = document.createElement(name);
    if (classes.length) node.className = classes.join(" ");
    for (const [key, value] of Object.entries(props)) {
      if (value === undefined || value === null) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (key in node && !key.includes("-") && key !== "list") node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const { el, icon } = svi;

  svi.text = (node, text) => { if (node && node.textContent !== text) node.textContent = text; };
  svi.show = (node, visible) => { if (node && node.hidden === visible) node.hidden = !visible; };
  const { text, show } = svi;

  svi.clock = (seconds, tenths = true) => {
    const rounded = tenths ? Math.round(seconds * 10) / 10 : Math.round(seconds);
    const minutes = Math.floor(rounded / 60), rest = rounded - minutes * 60;
    const shown = tenths ? rest.toFixed(1).padStart(4, "0") : String(rest).padStart(2, "0");
    return minutes >= 60
      ? `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${shown}` : `${minutes}:${shown}`;
  };

  svi.spoken = (seconds) => {
    const minutes = Math.floor(seconds / 60), rest = seconds - minutes * 60;
    const shown = `${Number.isInteger(rest) ? rest : rest.toFixed(1)} seconds`;
    return minutes ? `${minutes} minute${minutes === 1 ? "" : "s"} ${shown}` : shown;
  };

  // The same words as `eta_text` in words.py.
  svi.about = (seconds) => {
    if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
    if (seconds <= 5) return "a few seconds";
    if (seconds <= 55) return `about ${Math.max(10, Math.ceil(seconds / 10) * 10)} s`;
    if (seconds <= 75) return "about 1 min";
    const minutes = seconds / 60, tens = Math.ceil(minutes / 10) * 10;
    if (minutes < 10) return `${Math.floor(minutes)}–${Math.floor(minutes) + 1} min`;
    if (minutes < 55) return `about ${Math.ceil(minutes / 5) * 5} min`;
    return `about ${Math.floor(tens / 60)} h${tens % 60 ? ` ${tens % 60} min` : ""}`;
  };

  svi.calm = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  svi.typing = (node) =>
    !!node && (node.isContentEditable || /^(TEXTAREA|SELECT)$/.test(node.tagName) ||
      (node.tagName === "INPUT" && !/^(range|checkbox|radio|button)$/.test(node.type)));

  const read = (key, fallback) => {
    try { return JSON.parse(localStorage.getItem(key)) ?? fallback; } catch { return fallback; }
  };
  const write = (key, value) => { try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* private mode */ } };
  svi.preference = (name, value) => {
    const all = read("svi:preferences", {});
    if (value === undefined) return all[name];
    write("svi:preferences", { ...all, [name]: value });
  };

  // Whose films these are: a secret that only this browser keeps.
  const owner = () => {
    let secret = read("svi:owner", "");
    if (!secret) write("svi:owner", (secret = newKey()));
    return secret;
  };

  svi.owner = owner;

  const newKey = () => crypto.randomUUID ? crypto.randomUUID()
    : [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

  // ---- which project -----------------------------------------------------------------------------------------------

  // Tokens live beside the project's id in this browser; a shared link carries its own, for viewing only.
  const known = () => read("svi:projects", {});
  svi.id = null;
  svi.token = null;
  svi.recent = () => Object.entries(known()).filter(([id, film]) => ID.test(id) && film.title)
    .sort(([, a], [, b]) => b.opened - a.opened).slice(0, 6).map(([id, { title }]) => ({ id, title }));

  const openFromAddress = () => {
    const query = new URLSearchParams(location.search);
    const id = query.get("project");
    if (!id || !ID.test(id)) return;
    open(id, known()[id]?.token ?? query.get("token") ?? "");
  };

  const open = (id, token) => {
    svi.id = id;
    svi.token = token;
    svi.state = since = trouble = null;
    svi.missing = false;
    const projects = known();
    if (token && new URLSearchParams(location.search).get("token") !== token) {
      write("svi:projects", { ...projects, [id]: { ...projects[id], token, opened: Date.now() } });
    }
    const url = new URL(location.href);
    if (url.searchParams.get("project") !== id) {
      url.searchParams.set("project", id);
      url.searchParams.delete("token");
      history.pushState(null, "", url);
    }
    outbox = read(boxName(), []);
    document.body.classList.add("svi-project");
    flush();
    poll();
  };

  svi.open = open;

  svi.leave = () => {
    const url = new URL(location.href);
    url.searchParams.delete("project");
    url.searchParams.delete("token");
    location.assign(url);
  };

  // ---- polling -----------------------------------------------------------------------------------------------------

  let since = null, trouble = null, timer = null, polling = false, again = false;

  const request = async (path, options = {}) => {
    const abort = new AbortController();
    const alarm = setTimeout(() => abort.abort(), TIMEOUT_MS);
    try {
      return await fetch(svi.signed(ROOT() + svi.id + path), {
        ...options, signal: abort.signal, cache: "no-store",
        headers: { ...options.headers, ...(svi.token ? { "X-Studio-Token": svi.token } : {}) },
      });
    } finally { clearTimeout(alarm); }
  };
  // A private Space lets nothing through without the signature that the page itself was opened with.
  svi.signed = (url) => {
    const sign = new URLSearchParams(location.search).get("__sign");
    return url && sign ? `${url}${url.includes("?") ? "&" : "?"}__sign=${encodeURIComponent(sign)}` : url;
  };
  svi.get = async (path) => {
    const reply = await request(path);
    if (!reply.ok) throw new Error(`${path} answered ${reply.status}`);
    return reply.json();
  };
  // The state of another film, opened with its own token.
  svi.stateOf = async (id, token) => {
    const reply = await fetch(svi.signed(`${ROOT()}${id}/state`), { cache: "no-store", headers: { "X-Studio-Token": token } });
    if (!reply.ok) throw new Error(`state answered ${reply.status}`);
    return reply.json();
  };
  svi.media = (url) => fetch(svi.signed(url), { headers: svi.token ? { "X-Studio-Token": svi.token } : {} });

  const poll = async () => {
    clearTimeout(timer);
    if (!svi.id) return;
    if (polling) { again = true; return; }
    polling = true;
    const asked = svi.id;
    try {
      const reply = await request(`/state${since === null ? "" : `?since=${since}`}`);
      if (asked !== svi.id) return;
      if (reply.status === 200) {
        const state = await reply.json();
        if (svi.missing) found();
        trouble = null;
        connected();
        since = state.rev;
        apply(state);
      } else if (reply.status === 204) {
        connected();
      } else if (reply.status === 403 || reply.status === 404) {
        gone();
        connected();
      } else if (reply.status >= 502 && reply.status <= 504) throw new Error(`state answered ${reply.status}`);
      else {  // the studio is there and says what is wrong: the film stays on the page
        trouble = await explain(reply);
        since = null;
        connected();
        draw();
      }
    } catch (error) {
      console.debug(error);
      lost();
    } finally {
      polling = false;
      if (again) { again = false; poll(); }
      else if (svi.id) timer = setTimeout(poll, svi.missing ? MISSING_MS : document.hidden ? HIDDEN_MS : trouble ? TROUBLE_MS : VISIBLE_MS);
    }
  };
  svi.poll = poll;
  svi.refetch = () => { since = null; return poll(); };

  // Until the page shows what an action led to.
  svi.caughtUp = async (rev) => {
    for (let tries = 0; tries < 60 && svi.state && svi.state.rev < (rev ?? 0); tries += 1) {
      await poll();
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };

  const connected = () => {
    svi.failures = 0;
    if (!svi.online) { svi.online = true; flush(); }
    else if (!flushing && outbox.some((edit) => edit.tried && !edit.parked)) flush();
    show(svi.elements.banner, false);
    saved();
  };

  const lost = () => {
    svi.failures += 1;
    since = null;  // a restarted server may count from the beginning
    if (svi.failures < 2 && navigator.onLine) return;
    svi.online = false;
    const waiting = outbox.length ? ` ${outbox.length} change${outbox.length === 1 ? " is" : "s are"} kept here and sent then.` : "";
    const safe = svi.state?.job ? `${svi.state.view_only ? "The" : "Your"} film keeps rendering.` : "Finished clips are safe.";
    text(svi.elements.banner, `Connection lost. ${safe} Trying again every second.${waiting}`);
    show(svi.elements.banner, true);
    saved();
  };

  // The film may come back (a studio that is starting, a disk that is not mounted yet): its token is kept.
  const gone = () => {
    svi.missing = true;
    svi.state = since = null;
    trouble = { message: "This film is not here, or the link does not open it.", hint: "Start a new film, or ask for a fresh link." };
    inert(true);
    draw();
  };

  const found = () => { svi.missing = false; inert(false); };
  const inert = (off) => { for (const id of ["storyboard", "setup"]) { const node = document.getElementById(id); if (node) node.inert = off; } };

  document.addEventListener("visibilitychange", () => { if (document.hidden) flush(); else poll(); });
  window.addEventListener("online", () => poll());
  window.addEventListener("offline", () => { svi.failures = 1; lost(); });
  window.addEventListener("pagehide", () => flush(true));
  window.addEventListener("popstate", () => location.reload());

  // ---- sending -----------------------------------------------------------------------------------------------------

  // An act that must reach the server once: the key lets the server drop a repeat of one whose answer was lost.
  const post = (payload, keepalive = false) =>
    request("/act", { method: "POST", keepalive, headers: { "Content-Type": "application/json" }, body: JSON.stringify(payload) });

  const explain = async (reply) => {
    const body = await reply.json().catch(() => ({}));
    return { message: body.message || "The studio could not do that.", hint: body.hint || "", id: body.id || "", action: body.action || "" };
  };

  const RENDERS = new Set(["generate", "resume", "retry", "regenerate", "set_quality"]);

  // Does one action, after the edits that wait; returns the answer, or null when it was refused (and says so).
  svi.act = async (action, details = {}, { quiet = false } = {}) => {
    if (!svi.id || svi.missing) return null;
    await flush();
    if (RENDERS.has(action) && outbox.length) {
      complain({ message: "Not saved yet.", hint: "A change has not reached the studio. Save or discard it on its clip, or wait for the connection, then try again." });
      return null;
    }
    const payload = { key: newKey(), action, ...details };
    for (let attempt = 0; ; attempt += 1) {
      try {
        const reply = await post(payload);
        if (reply.ok) {
          complain(null);
          const answer = await reply.json();
          poll();
          return answer;
        }
        if (reply.status < 500) {
          const problem = await explain(reply);
          if (!quiet) complain(problem);
          poll();
          return null;
        }
      } catch (error) { console.debug(error); }
      if (attempt === 2) {
        complain({ message: "The studio did not answer.", hint: "Nothing was changed. Try again when the connection is back." });
        lost();
        return null;
      }
      await new Promise((resolve) => setTimeout(resolve, 400));
    }
  };

  // Edits wait here, in the browser's storage, until the server has them: a reload or an outage loses no text.
  const TRIES = 5;
  let outbox = [], flushing = null, saveTimer = null;
  const boxName = () => `svi:outbox:${svi.id}`;
  const plain = ({ sent, tried, failed, parked, ...edit }) => edit;
  const keep = () => write(boxName(), outbox.map(plain));
  const sameEdit = (a, b) => a.action === b.action && a.clip_id === b.clip_id;

  svi.edit = (action, details, { soon = false } = {}) => {
    const edit = { key: newKey(), action, ...details };
    const index = outbox.findIndex((waiting) => sameEdit(waiting, edit) && !waiting.sent);
    if (index < 0) outbox.push(edit);
    else outbox[index] = action === "set_settings" ? { ...outbox[index], ...edit, failed: 0 } : edit;
    keep();
    saved();
    clearTimeout(saveTimer);
    saveTimer = setTimeout(() => flush(), soon ? 0 : SAVE_MS);
  };
  svi.waiting = (action, clipId) => outbox.find((edit) => edit.action === action && edit.clip_id === clipId);

  // A refused edit stays on its card, with the reason (`parked`), until it is changed, sent again or discarded.
  svi.parked = (clipId) => outbox.find((edit) => edit.parked && edit.clip_id === clipId);
  svi.sendAgain = (clipId) => {
    for (const edit of outbox) if (edit.clip_id === clipId) { delete edit.parked; edit.failed = 0; }
    return flush();
  };
  svi.discard = (clipId) => {
    outbox = outbox.filter((edit) => !(edit.parked && edit.clip_id === clipId));
    keep();
    saved();
  };
  const park = (edit, problem) => {
    if (edit.clip_id && (!svi.state || svi.parts.storyboard?.has(edit.clip_id))) edit.parked = problem;
    else { outbox.splice(outbox.indexOf(edit), 1); complain(problem); }
    keep();
    svi.parts.storyboard?.refused(edit);
  };

  const flush = (leaving = false) => {
    clearTimeout(saveTimer);
    if (!svi.id || svi.missing || !outbox.some((edit) => !edit.parked)) return flushing ?? Promise.resolve();
    if (leaving) {
      for (const edit of outbox) if (!edit.parked) post(plain(edit), true).catch(() => {});
      return Promise.resolve();
    }
    flushing ??= send().finally(() => { flushing = null; saved(); });
    return flushing;
  };

  const send = async () => {
    for (let edit; (edit = outbox.find((one) => !one.parked));) {
      edit.sent = true;
      saved();
      let reply;
      try {
        reply = await post(plain(edit));
        if (reply.status >= 500 || reply.status === 404 || reply.status === 429) throw new Error(`act answered ${reply.status}`);
      } catch (error) {
        console.debug(error);
        delete edit.sent;
        edit.tried = true;
        edit.failed = (edit.failed ?? 0) + (svi.online ? 1 : 0);
        if (edit.failed < TRIES || !outbox.includes(edit)) return;  // the next successful poll sends it again
        park(edit, reply && reply.status !== 404 ? await explain(reply) : { message: "This change could not be saved.", hint: "" });
        continue;
      }
      delete edit.sent;
      if (reply.ok) {
        outbox = outbox.filter((one) => one !== edit);
        keep();
        const { rev } = await reply.json().catch(() => ({}));
        svi.parts.storyboard?.acknowledged(edit, rev);
      } else {
        const problem = await explain(reply);
        const newer = outbox.some((one) => one !== edit && sameEdit(one, edit));
        if (newer) { outbox = outbox.filter((one) => one !== edit); keep(); } else park(edit, problem);
      }
    }
    poll();
  };

  const saved = () => {
    const node = svi.elements.saved;
    if (!node) return;
    if (!svi.id) return text(node, "");
    const count = outbox.length;
    if (!svi.online) text(node, count ? `Offline · ${count} change${count === 1 ? "" : "s"} waiting` : "Offline");
    else text(node, svi.state?.view_only ? "View only" : !count ? "Saved" : outbox.every((edit) => edit.parked) ? `${count} change${count === 1 ? "" : "s"} not saved` : "Saving…");
    node.dataset.state = !svi.online ? "offline" : count ? "saving" : "saved";
  };

  // ---- what arrived ------------------------------------------------------------------------------------------------

  let spokenAt = 0, lastSpoken = "", speakTimer = null, doneBefore = -1;

  const apply = (state) => {
    if (state.view_only) for (const name of ["message", "announce"]) state[name] = state[name]?.replaceAll("Your film", "The film");
    const ids = new Set(state.clips.map((clip) => clip.id));
    const orphans = outbox.filter((edit) => edit.parked && !ids.has(edit.clip_id));
    if (orphans.length) { outbox = outbox.filter((edit) => !orphans.includes(edit)); keep(); }
    const first = svi.state === null;
    svi.state = state;
    draw();
    svi.parts.storyboard?.update(state);
    svi.parts.player?.update(state);
    speak(state);
    if (first && (state.clips.length || state.story.drafting)) svi.tab("story");
    if (first || formDiffers(state)) restoreSetup(state);
    const unmeasured = svi.setup.quality?.some((row) => row.name === state.project.quality && !row.seconds[state.project.hd ? "hd" : "sd"]);
    if (unmeasured && state.phase === "finished" && svi.measured !== state.rev) { svi.measured = state.rev; svi.trigger?.("refresh", {}); }
    remember(state);
  };

  const speak = (state) => {
    const done = state.clips.filter((clip) => clip.status === "done").length;
    const finishedOne = doneBefore >= 0 && done > doneBefore;
    doneBefore = done;
    const words = state.announce || "";
    if (!words || words === lastSpoken) return;
    lastSpoken = words;
    clearTimeout(speakTimer);
    const say = () => { spokenAt = Date.now(); text(svi.elements.announcer, words); };
    const wait = spokenAt + SPEAK_MS - Date.now();
    if (finishedOne || wait <= 0) say(); else speakTimer = setTimeout(say, wait);
  };
  svi.say = (words) => { text(svi.elements.announcer, ""); setTimeout(() => text(svi.elements.announcer, words), 50); };

  const remember = ({ project, view_only }) => {
    if (view_only || !svi.token) return;
    const projects = known(), title = project.title;
    if (projects[project.id]?.title !== title) write("svi:projects", { ...projects, [project.id]: { ...projects[project.id], token: svi.token, title, opened: Date.now() } });
  };

  // ---- the frame around the parts ----------------------------------------------------------------------------------

  let complaint = null;
  const complain = (problem) => {
    complaint = problem;
    drawProblem();
  };
  svi.complain = complain;

  const drawProblem = () => {
    const node = svi.elements.problem;
    if (!node) return;
    const problem = complaint ?? trouble ?? svi.state?.error ?? null;
    const key = JSON.stringify(problem);
    if (node.dataset.key === key) return;
    node.dataset.key = key;
    show(node, !!problem);
    node.replaceChildren();
    if (!problem) return;
    node.append(el("strong", {}, problem.message));
    if (problem.hint) node.append(" ", el("span", {}, problem.hint));
    if (problem.id) node.append(" ", el("span.code", {}, `Error ${problem.id}`));
    if (problem.action === "restore_previous") {
      node.append(" ", el("button.plain.small", { type: "button", onclick: () => during("Restoring…", () => svi.act("restore_previous")) }, "Restore the last good version"));
    }
    if (complaint) node.append(el("button.quiet.dismiss", { type: "button", "aria-label": "Dismiss", onclick: () => complain(null) }, icon("close")));
  };

  // The picture that the form holds, before a project exists.
  const primaryOf = () => {
    if (svi.state) return svi.state.primary;
    if (svi.missing) return { label: "New film", action: "leave", enabled: true };
    if (svi.id && trouble) return { label: "Opening…", action: "none", enabled: false, reason: "The studio could not read this film." };
    if (svi.id) return { label: "Opening…", action: "none", enabled: false, reason: "Reading the film from disk." };
    if (svi.creating) return { label: "Drafting…", action: "none", enabled: false, reason: "Reading your picture." };
    const ready = !!(svi.form.image || svi.form.found);
    return { label: "Draft storyline", action: "create", enabled: ready, reason: ready ? "" : "Add a picture first: drop, paste or choose one." };
  };

  let busy = null;
  const draw = () => {
    const { elements: at, state } = svi;
    const primary = primaryOf();
    if (at.primary) {
      text(at.primaryLabel, busy ?? primary.label);
      at.primary.dataset.action = primary.action;
      const off = !primary.enabled || busy !== null;
      at.primary.setAttribute("aria-disabled", String(off));
      at.primary.toggleAttribute("data-busy", busy !== null || !!svi.creating);
      text(at.reason, primary.enabled ? "" : primary.reason || "");
      const stop = state?.stop;
      show(at.stop, !!stop?.enabled && !state.view_only);
      text(at.stopLabel, stop?.label || "Stop");
      show(at.extend, !!state && state.clips.length > 0 && !state.view_only && !state.story.drafting && !state.outgrown);
      text(at.extendLabel, primary.action === "extend" ? "More clips" : "Extend");
      text(at.message, state?.error ? "" : state?.message || (svi.id ? "" : svi.setup.machine?.welcome || ""));
      document.body.dataset.phase = state?.phase ?? (svi.missing ? "missing" : svi.id ? "opening" : "empty");
      document.body.classList.toggle("svi-view-only", !!state?.view_only);
      document.body.classList.toggle("svi-clips", !!state?.clips.length);
    }
    drawProblem();
    drawTop(state);
    drawSetup(state);
    for (const part of ["machine", "telling", "pictures"]) svi.parts[part]?.draw();
    svi.modelChanged?.();
    saved();
  };
  svi.draw = draw;

  const drawTop = (state) => {
    const at = svi.elements;
    if (!at.title) return;
    show(at.titleField, !!state);
    if (state) {
      if (document.activeElement !== at.title && !svi.waiting("set_settings")) at.title.value = state.project.title;
      at.title.readOnly = state.view_only;
      document.title = `${state.project.title} · Stable Video Infinity Studio`;
    }
    const job = state?.job;
    const place = job?.state === "queued" && job.place ? `${job.place} before yours` : "";
    text(at.work, place || { loading: "Loading the model", generating: "Rendering", drafting: "Drafting" }[state?.phase] || "");
    show(at.work, !!at.work.textContent);
    drawCredit(state?.project.credit);
    show(at.newFilm, !!svi.id);
    show(at.share, !!state && !state.view_only);
    show(at.remake, !!state?.clips.length && !state.view_only);
    show(at.exportButton, !!state && !state.view_only);
    const ready = !!state?.film?.segments?.length;
    at.exportButton.setAttribute("aria-disabled", String(!ready));
    at.exportButton.title = ready ? "Join the finished clips into one MP4" : "There is no finished clip yet.";
    const exported = state?.export;
    const running = exported && exported.state && !["done", "ready", "finished"].includes(exported.state);
    text(at.exportLabel, running ? "Exporting…" : "Export");
    show(at.download, !!exported?.url && !running);
    if (exported?.url) {
      at.download.href = svi.signed(exported.url);
      at.download.setAttribute("download", exported.name || "film.mp4");
      at.download.title = exported.frames ? `${exported.name}, ${exported.frames} frames` : exported.name || "";
    }
  };

  // Who made the picture, in sight of Export: most licences ask for it.
  const drawCredit = (credit) => {
    const node = svi.elements.credit, key = JSON.stringify(credit ?? null);
    if (node.dataset.key === key) return;
    node.dataset.key = key;
    show(node, !!credit);
    node.replaceChildren(...(credit ? ["Picture: ", ...svi.credit(credit)] : []));
  };

  const drawSetup = (state) => {
    const at = svi.elements;
    if (!at.length || !at.promise || !at.quality || !at.size || !at.redraft) return;
    const { setup, form } = svi;
    const variant = setup.variants?.find((row) => row.name === form.variant);
    const frames = state?.project.num_frames ?? setup.num_frames ?? 81;
    const fps = state?.project.fps ?? setup.fps ?? 16;
    const count = Math.max(1, Math.round(Number(form.length) || 1));
    const motion = variant?.num_motion_frames ?? 1;
    const seconds = (count * frames - (count - 1) * motion) / fps;
    const wanted = svi.form.length === "" || svi.form.length == null ? NaN : Number(svi.form.length), most = setup.max_length ?? 200;
    const refused = Number.isInteger(wanted) && wanted >= 1 && (wanted <= most || wanted === state?.clips.length) ? "" : `The length must be a whole number from 1 to ${most}.`;
    text(at.length, refused || `${count} clip${count === 1 ? "" : "s"} ≈ ${seconds < 90 ? `${seconds.toFixed(seconds < 10 ? 1 : 0)} s` : svi.clock(seconds, false)} of film`);
    text(at.promise, variant ? `${variant.title}: ${variant.promise}.` : "");
    drawQuality(state);
    if (at.anchor && state) {
      const url = svi.signed(state.project.image_url);
      if (at.anchor.getAttribute("src") !== url) at.anchor.src = url;
      at.anchor.alt = "The picture this film starts from";
      text(at.anchorSize, `${state.project.width} × ${state.project.height}, ${state.project.fps} fps`);
    }
    show(at.redraft, !!state && state.clips.length > 0 && !state.view_only);
    at.redraft.disabled = !!state && ["generating", "loading", "queued", "drafting"].includes(state.phase);
    text(at.source, { template: "The storyline came from templates: they know your keywords, the light of your picture, and whether it has sky, water, trees or lamps.", qwen: "The storyline was written by the vision model from your picture.", endpoint: "The storyline was written from your picture by the model of a server that this studio asks.", user: "" }[state?.project.storyline_source] ?? "");
  };

  // Measured seconds that a clip of this quality takes, of this film or of one at the size chosen; null: never measured.
  const secondsOf = (choice, state) => {
    if (state?.project.quality === choice.name) return state.seconds_a_clip[choice.name === "draft" ? "draft" : "full"];
    const size = state ? (state.project.hd ? "hd" : "sd") : svi.form.size ?? "sd";
    return choice.seconds?.[size] ?? null;
  };

  const drawQuality = (state) => {
    const { elements: at, setup, form } = svi;
    const choice = setup.quality?.find((row) => row.name === form.quality);
    if (choice) {
      const seconds = secondsOf(choice, state);
      const cost = seconds ? `${svi.about(seconds)} a clip` : "time per clip is measured on the first one";
      const full = state?.project.num_inference_steps ?? form.num_inference_steps;
      const later = choice.name === "draft" && full ? ` Full quality: ${full} step${full === 1 ? "" : "s"}.` : "";
      text(at.quality, `${choice.about}; ${cost}.${later}`);
    } else text(at.quality, "");
    const sizes = setup.sizes?.[form.size ?? "sd"] ?? [];
    if (state) text(at.size, setup.sizes?.hd && !state.view_only ? "The size stays as it was when the film began." : "");
    else text(at.size, setup.sizes?.hd ? `${sizes.join(", ")}: whichever is nearest to your picture. It cannot be changed later.` : "");
  };

  // Offers to take back the edit `id`, which removed something; Ctrl+Z takes back every other edit as well.
  let undoTimer = null, undoId = "";
  svi.offerUndo = (words, id) => {
    const at = svi.elements;
    undoId = id;
    clearTimeout(undoTimer);
    text(at.toastText, words);
    show(at.toast, true);
    svi.say(`${words} Undo is possible for 10 seconds.`);
    undoTimer = setTimeout(() => show(at.toast, false), UNDO_MS);
  };

  // ---- the primary button and its neighbours -----------------------------------------------------------------------

  const DOING = { draft: "Drafting…", stop_draft: "Stopping…", generate: "Starting…", resume: "Resuming…", retry: "Trying again…", extend: "Extending…", pause: "Pausing…", copy: "Copying…" };

  const during = async (label, work) => {
    busy = label;
    draw();
    try { return await work(); } finally { busy = null; draw(); }
  };
  svi.during = during;

  svi.primary = async () => {
    const primary = primaryOf();
    if (busy !== null) return;
    if (!primary.enabled) {
      svi.say(primary.reason || "");
      svi.elements.reason?.animate?.([{ opacity: 0.3 }, { opacity: 1 }], { duration: svi.calm() ? 0 : 350 });
      return;
    }
    if (primary.action === "leave") return svi.leave();
    if (primary.action === "create") return create();
    if (primary.action === "draft") return draft();
    if (primary.action === "extend") return svi.extend(1);
    if (primary.action === "copy") return copy();
    if (primary.action === "remake") return svi.makeCopy(svi.state.project.preset);
    await during(DOING[primary.action] ?? primary.label, () => svi.act(primary.action));
  };

  const create = () => {
    svi.creating = true;
    complain(null);
    draw();
    svi.trigger("create", { owner: owner(), nonce: newKey(), name: svi.form.image?.orig_name ?? "", found: svi.form.found?.id ?? "", model: svi.form.model ?? "", touched: [...touched] });
  };

  // The answer of the private create event: {project_id, token} or {message, hint}.
  svi.created = async (answer) => {
    svi.creating = false;
    if (!answer?.project_id) {
      complain(answer ?? { message: "This file is not a picture we can read.", hint: "Use a PNG, JPEG or WebP up to 25 MB, then try again." });
      return draw();
    }
    complain(null);
    open(answer.project_id, answer.token);
    draw();
    if (answer.drafted) return;
    const telling = svi.parts.telling?.chosen();
    if (telling) svi.edit("set_settings", telling, { soon: true });
    await draft();
  };

  const draft = () => during("Drafting…", async () => {
    const replaced = svi.state?.clips.length ?? 0;
    svi.parts.storyboard?.story.expect(replaced ? { words: "A new storyline replaced the earlier one.", label: "Draft storyline" } : null);
    const done = await svi.act("draft", { keywords: svi.form.keywords ?? "", length: svi.form.length === "" || svi.form.length == null ? null : Number(svi.form.length) });
    if (done) svi.tab("story");
    await svi.parts.storyboard?.story.asked(done);
  });

  const copy = () => during("Copying…", async () => {
    const answer = await svi.act("copy", { owner: owner() });
    if (answer?.project_id) open(answer.project_id, answer.token);
  });

  svi.extend = (count) => {
    svi.parts.player?.expectExtension();
    return during("Extending…", () => svi.act("extend", { count }));
  };

  svi.example = (name) => {
    svi.creating = true;
    draw();
    svi.trigger("example", { owner: owner(), nonce: newKey(), name });
  };

  // ---- the form, made of Gradio's own fields -----------------------------------------------------------------------

  svi.fieldChanged = (name, value) => {
    svi.form[name] = value;
    if (name === "image" && value) { complain(null); svi.form.found = null; }
    if (name === "image") svi.parts.player?.picture(value?.url ?? null);
    draw();
  };

  // Only what the creator touched is sent, not what the page itself put into the field.
  svi.fieldEdited = (name, value) => {
    svi.form[name] = value;
    touched.add(name);
    if (name === "quality") touched.delete("num_inference_steps");
    draw();
    if (!svi.state || svi.state.view_only) return;
    const settings = name === "quality" ? { quality: value } : name === "keywords" ? { idea: value } : { [name]: value };
    if (name === "length" || name === "size" || value === null) return;
    svi.shownSettings = null;  // what the field holds is not what the project holds until it is saved
    svi.edit("set_settings", settings, { soon: /variant|quality/.test(name) });
  };

  const touched = new Set();  // fields that somebody filled in; the others keep the preset's values

  svi.defaultsArrive = (setup) => {
    if (!svi.setup.quality && !svi.state) {
      for (const [name, preset] of Object.entries(setup.defaults ?? {})) if (!touched.has(name)) svi.form[name] = preset;
    }
    svi.setup = setup;
  };

  svi.setupValues = () => {
    const { project, clips } = svi.state;
    const quality = project.quality === "custom" ? null : project.quality;
    return [project.idea ?? "", clips.length || svi.form.length, project.variant, quality, project.seed,
      project.num_inference_steps, project.negative_prompt ?? ""];
  };
  // Another tab, an undo or a refusal changed a setting: the form follows, unless someone is at work in it.
  const formDiffers = ({ project }) =>
    !svi.waiting("set_settings") && !document.activeElement?.closest?.("#setup") && svi.shownSettings !== settingsOf(project);
  const settingsOf = (project) => JSON.stringify([project.variant, project.quality, project.seed, project.num_inference_steps, project.negative_prompt]);

  const restoreSetup = ({ project, clips }) => {
    Object.assign(svi.form, { keywords: project.idea ?? "", variant: project.variant, quality: project.quality ?? svi.form.quality });
    if (clips.length) svi.form.length = clips.length;
    if (svi.trigger) { svi.shownSettings = settingsOf(project); svi.trigger("restore", {}); }
    draw();
  };

  // ---- dialogs and menus -------------------------------------------------------------------------------------------

  svi.dialog = (title, body, buttons) => new Promise((resolve) => {
    const before = document.activeElement;
    const heading = el("h2", { id: `dialog-${newKey()}` }, title);
    const row = el("div.dialog-buttons");
    const box = el("dialog.svi-dialog", { "aria-labelledby": heading.id }, heading, body, row);
    const finish = (answer) => { box.close(); box.remove(); before?.isConnected && before.focus(); resolve(answer); };
    const done = (answer) => {  // an answer that is undefined keeps the dialog open
      const value = typeof answer === "function" ? answer() : answer;
      if (value !== undefined) finish(value);
    };
    for (const { label, answer, kind = "" } of buttons) {
      row.append(el(`button${kind ? `.${kind}` : ".plain"}`, { type: "button", onclick: () => done(answer) }, label));
    }
    box.addEventListener("cancel", (event) => { event.preventDefault(); finish(null); });
    // Only a press that began beside the box closes it, not a selection that ended there.
    let beside = false;
    const outside = (event) => {
      const { left, right, top, bottom } = box.getBoundingClientRect();
      return event.target === box && (event.clientX < left || event.clientX > right || event.clientY < top || event.clientY > bottom);
    };
    box.addEventListener("pointerdown", (event) => { beside = outside(event); });
    box.addEventListener("click", (event) => { if (beside && outside(event)) finish(null); });
    document.body.append(box);
    box.showModal();
    (box.querySelector("input:checked") ?? row.querySelector(".accent") ?? row.querySelector("button"))?.focus();
  });

  let openMenu = null;
  svi.menu = (button, items) => {
    if (openMenu) { const same = openMenu.button === button; openMenu.close(); if (same) return; }
    const list = el("div.svi-menu", { role: "menu", "aria-label": button.getAttribute("aria-label") || button.textContent });
    const close = (refocus = true) => {
      list.remove();
      button.setAttribute("aria-expanded", "false");
      document.removeEventListener("pointerdown", outside, true);
      window.removeEventListener("scroll", away, true);
      openMenu = null;
      if (refocus && button.isConnected) button.focus({ preventScroll: true });
    };
    const outside = (event) => { if (!list.contains(event.target) && !button.contains(event.target)) close(false); };
    // The page was scrolled away under the menu; not the menu itself, nor a scroll that ended before it opened.
    const away = () => { const { left, top } = button.getBoundingClientRect(); if (Math.hypot(left - box.left, top - box.top) > 2) close(false); };
    for (const item of items) {
      if (item === "line") { list.append(el("hr", { role: "separator" })); continue; }
      const node = item.href
        ? el("a", { href: item.href, download: item.download ?? "", role: "menuitem", tabIndex: -1, onclick: () => close() }, item.label)
        : el("button", { type: "button", role: "menuitem", tabIndex: -1, onclick: () => { if (item.off) return; close(); item.run(); } }, item.label);
      if (item.off) { node.setAttribute("aria-disabled", "true"); node.title = item.off; }
      if (item.note) node.append(el("small", {}, item.note));
      list.append(node);
    }
    list.addEventListener("keydown", (event) => {
      const all = [...list.querySelectorAll("[role=menuitem]")], at = all.indexOf(document.activeElement);
      const to = { ArrowDown: (at + 1) % all.length, ArrowUp: (at - 1 + all.length) % all.length, Home: 0, End: all.length - 1 }[event.key];
      if (to !== undefined) { event.preventDefault(); all[to].focus(); }
      else if (event.key === "Escape" || event.key === "Tab") { event.preventDefault(); close(); }
      event.stopPropagation();
    });
    document.body.append(list);
    const box = button.getBoundingClientRect(), size = list.getBoundingClientRect();
    const below = box.bottom + size.height + 8 < window.innerHeight;
    list.style.left = `${Math.max(8, Math.min(box.right - size.width, window.innerWidth - size.width - 8))}px`;
    list.style.top = `${Math.max(8, below ? box.bottom + 4 : box.top - size.height - 4)}px`;
    button.setAttribute("aria-expanded", "true");
    openMenu = { button, close };
    list.querySelector("[role=menuitem]")?.focus({ preventScroll: true });
    document.addEventListener("pointerdown", outside, true);
    setTimeout(() => openMenu && window.addEventListener("scroll", away, true), 50);
  };

  svi.extendMenu = (button) => svi.menu(button, [
    { label: "Add 1 clip", note: "rendered at once", run: () => svi.extend(1) },
    { label: "Add 5 clips", note: "you see the prompts first", run: () => svi.extend(5) },
    { label: "Add 10 clips", note: "you see the prompts first", run: () => svi.extend(10) },
    { label: "Until I stop", note: "pauses by itself when the disk is full", run: () => svi.extend("forever") },
  ]);

  const KEYS = [
    ["Space or K", "play or pause"], ["J / L", "5 seconds back or on"], ["← / →", "one frame"], ["Shift + ← / →", "one second"],
    ["↑ / ↓", "previous or next clip"], ["Home / End", "start or end of the film"], ["M", "mute"], ["F", "full screen"],
    ["Enter", "edit the clip’s prompt"], ["Esc", "leave the prompt"], ["Ctrl or ⌘ + Enter", "generate or regenerate"],
    ["E", "extend by a clip"], ["Alt + ↑ / ↓", "move the clip"], ["Delete", "remove the clip, with undo"],
    ["Ctrl or ⌘ + Z", "undo"], ["?", "this list"],
  ];
  svi.keys = () => {
    const single = el("input", { type: "checkbox", checked: svi.preference("keys") !== false, onchange: () => svi.preference("keys", single.checked) });
    const table = el("dl.keys");
    for (const [key, does] of KEYS) table.append(el("dt", {}, key), el("dd", {}, does));
    return svi.dialog("Keys", el("div", {}, table, el("label.check", {}, single, " Use single keys")), [{ label: "Close", answer: null, kind: "accent" }]);
  };

  const share = async () => {
    const answer = await svi.act("share");
    if (!answer?.token) return;
    const url = `${document.baseURI.replace(/[?#].*$/, "")}?${new URLSearchParams({ project: svi.id, token: answer.token })}`;
    const field = el("input.share-link", { type: "text", readOnly: true, value: url, "aria-label": "Link to this film" });
    const copyIt = async () => { field.select(); try { await navigator.clipboard.writeText(url); svi.say("Link copied."); } catch { document.execCommand("copy"); } };
    await svi.dialog("Share this film", el("div", {}, el("p", {}, "Whoever opens this link can watch the film and make a copy. They cannot change yours."), field),
      [{ label: "Copy link", answer: () => { copyIt(); return true; }, kind: "accent" }, { label: "Close", answer: null }]);
  };

  // ---- keys --------------------------------------------------------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]") || document.body.dataset.view === "lab") return;
    const command = event.ctrlKey || event.metaKey;
    if (command && event.key === "Enter") {
      event.preventDefault();
      if (!svi.parts.storyboard?.commandEnter()) svi.primary();
      return;
    }
    if (svi.typing(event.target)) return;
    if (command && event.key.toLowerCase() === "z" && !event.shiftKey && svi.state?.undo) {
      event.preventDefault();
      svi.act("undo");
      return;
    }
    if (command) return;
    const single = svi.preference("keys") !== false;
    // Buttons, fields and menus keep the keys they need to work.
    const onControl = event.target.closest?.("button, a, input, select, summary, [role=menu], [role=tab], [role=radio], label");
    if (onControl && (event.key === " " || event.key === "Enter" || (event.key.startsWith("Arrow") && onControl.tagName !== "BUTTON"))) return;
    if (svi.parts.storyboard?.key(event)) { event.preventDefault(); return; }
    if (!single) return;  // moving among the cards takes no letters
    if (svi.parts.player?.key(event)) { event.preventDefault(); return; }
    if (event.altKey) return;
    if (event.key === "?") { event.preventDefault(); svi.keys(); }
    if (event.key.toLowerCase() === "e" && svi.state?.clips.length && !svi.state.view_only) { event.preventDefault(); svi.extend(1); }
  });

  // ---- chips: the moves the embedded model knows -------------------------------------------------------------------

  const KINDS = [["stay", "Rest"], ["camera", "Camera"], ["light", "Light"], ["living", "Living"]];

  // The moves by kind, each a chip that `made` builds.
  svi.chips = (moves, made) => KINDS.map(([kind, title]) => [title, moves.filter((move) => move.kind === kind)])
    .filter(([, own]) => own.length)
    .map(([title, own]) => el("div.chips", { role: "group", "aria-label": title }, el("span.dim", {}, title), ...own.map(made)));

  svi.addKeyword = (word) => {
    const field = document.querySelector("#keywords textarea, #keywords input");
    if (!field) return;
    const parts = field.value.split(",").map((part) => part.trim()).filter(Boolean);
    if (!parts.includes(word)) parts.push(word);
    const setter = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set;
    setter.call(field, parts.join(", "));
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.focus();
  };

  // ---- mounting: each gr.HTML hands over its element once ----------------------------------------------------------

  const mounts = {
    top(element) {
      const at = svi.elements, find = (name) => element.querySelector(`[data-at=${name}]`);
      for (const name of ["title", "titleField", "saved", "work", "newFilm", "share", "remake", "download", "credit", "banner", "announcer", "toast", "toastText"]) at[name] = find(name);
      at.exportButton = element.querySelector("#export");
      at.exportLabel = find("exportLabel");
      find("undo").addEventListener("click", () => { show(at.toast, false); svi.act("undo", { id: undoId }); });
      document.body.append(at.toast);
      at.title.addEventListener("input", () => svi.edit("set_settings", { title: at.title.value }));
      at.title.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === "Escape") at.title.blur(); });
      at.title.addEventListener("blur", () => { if (!at.title.value.trim()) draw(); });
      at.newFilm.addEventListener("click", svi.leave);
      at.share.prepend(icon("link"));
      at.share.addEventListener("click", share);
      at.remake.addEventListener("click", svi.renderWith);
      at.download.prepend(icon("download"));
      at.exportButton.addEventListener("click", () => {
        if (at.exportButton.getAttribute("aria-disabled") === "true") return svi.say("There is no finished clip yet.");
        text(at.exportLabel, "Exporting…");
        svi.act("export");
      });
      for (const button of element.querySelectorAll("button[data-view]")) button.addEventListener("click", () => svi.view(button.dataset.view));
      find("keys").append(icon("keys"));
      find("keys").addEventListener("click", svi.keys);
      find("theme").append(icon("theme"));
      find("theme").addEventListener("click", () => {
        const dark = document.body.classList.toggle("dark");
        svi.preference("theme", dark ? "dark" : "light");
      });
    },
    deck(element) {
      const at = svi.elements, find = (name) => element.querySelector(`[data-at=${name}]`);
      at.primary = element.querySelector("#primary");
      at.stop = element.querySelector("#stop");
      at.extend = element.querySelector("#extend");
      for (const name of ["primaryLabel", "stopLabel", "extendLabel", "reason", "message", "problem"]) at[name] = find(name);
      at.stop.prepend(icon("stop"));
      at.extend.append(icon("down"));
      at.primary.addEventListener("click", svi.primary);
      at.stop.addEventListener("click", () => { text(at.stopLabel, "Stopping…"); svi.act("stop"); });
      at.extend.addEventListener("click", () => svi.extendMenu(at.extend));
      for (const tab of element.querySelectorAll("button[data-tab]")) tab.addEventListener("click", () => svi.tab(tab.dataset.tab));
      svi.tab(svi.state?.clips.length ? "story" : "setup");
    },
    notes(element) {
      const at = svi.elements, find = (name) => element.querySelector(`[data-at=${name}]`);
      for (const name of ["anchor", "anchorSize", "anotherPicture"]) at[name] = find(name) ?? at[name];
      find("anotherPicture")?.addEventListener("click", svi.leave);
    },
    length(element) { svi.elements.length = element.querySelector("[data-at=length]"); },
    promise(element) { svi.elements.promise = element.querySelector("[data-at=promise]"); },
    quality(element) { svi.elements.quality = element.querySelector("[data-at=quality]"); },
    size(element) { svi.elements.size = element.querySelector("[data-at=size]"); },
    after(element) {
      const at = svi.elements;
      at.redraft = element.querySelector("#redraft");
      at.source = element.querySelector("[data-at=source]");
      at.redraft.addEventListener("click", draft);
    },
    // Carries data in (`value`) and private events out; draws nothing.
    bridge(element, trigger, props, watch) {
      svi.trigger = trigger;
      const arrived = () => {
        const value = typeof props.value === "string" && props.value ? JSON.parse(props.value) : props.value;
        if (!value) return;
        if (value.setup) {
          svi.defaultsArrive(value.setup);
          drawMoves();
          svi.parts.player?.examples(value.setup.examples ?? []);
        }
        if (value.answer) svi.created(value.answer);
        draw();
      };
      watch("value", arrived);
      arrived();
      if (svi.state) restoreSetup(svi.state);
    },
  };

  const drawMoves = () => {
    const at = svi.elements, moves = svi.setup.vocabulary ?? [];
    if (!at.moves) return;
    show(at.moves, moves.length > 0);
    at.moveList.replaceChildren(...svi.chips(moves, ({ title }) => el("button.chip", {
      type: "button", "aria-label": `Add “${title}” to the keywords`, onclick: () => svi.addKeyword(title),
    }, title)));
  };

  svi.drawMoves = drawMoves;

  svi.tab = (name) => {
    document.body.dataset.tab = name;
    for (const tab of document.querySelectorAll("button[data-tab]")) tab.setAttribute("aria-pressed", String(tab.dataset.tab === name));
  };

  svi.mount = (name, element, ...rest) => {
    if (element.dataset.mounted) return;
    element.dataset.mounted = "true";
    (mounts[name] ?? svi.mounts[name])(element, ...rest);
    draw();
    if (svi.state) { svi.parts[name]?.update?.(svi.state); }
  };
  svi.mounts = {};

  const theme = svi.preference("theme");
  const start = () => {
    if (theme && !new URLSearchParams(location.search).has("__theme")) setTimeout(() => document.body.classList.toggle("dark", theme === "dark"), 0);
    openFromAddress();
  };
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
