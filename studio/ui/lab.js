// The Lab: a creator's training runs, from dropped videos to a LoRA, its curves, and the choice of a model for films.
// Nothing is asked of the server before somebody opens the Lab, but for the models that this browser's owner has made.
//
// Rule S1: text reaches the document through textContent or value only.
(() => {
  "use strict";

  const POLL_MS = 1000, HIDDEN_MS = 10000, SAVE_MS = 500, CHECK_MS = 900, MAX_MB = 60;
  const SVG = "http://www.w3.org/2000/svg";
  const API = () => document.baseURI.replace(/[?#].*$/, "").replace(/\/$/, "") + "/gradio_api/";
  const LAB = () => `${API()}studio/lab/`;
  const STATUS = { draft: "Draft", queued: "Waiting", training: "Training", pausing: "Pausing", paused: "Paused", failed: "Stopped by a problem", done: "Done" };
  const ARMS = {
    composed: "Composed, as your films are", perfect: "Exact moves, frames handed over", base: "Before training",
    control: "Trained without errors", erft: "Trained with recycled errors",
  };
  const { el, text, show } = svi;
  const at = {};
  const lab = (svi.lab = { runs: [], models: [], limits: null, run: null, state: null });

  // ---- asking ------------------------------------------------------------------------------------------------------

  const refuse = async (reply) => {
    const body = await reply.json().catch(() => ({}));
    return Object.assign(new Error(body.message || "The studio could not do that."), { hint: body.hint || "", id: body.id || "" });
  };
  const send = async (url, body, token) => {
    const reply = await fetch(svi.signed(url), {
      method: "POST", body: JSON.stringify(body),
      headers: { "Content-Type": "application/json", ...(token ? { "X-Studio-Token": token } : {}) },
    });
    if (!reply.ok) throw await refuse(reply);
    return reply.json();
  };

  const complain = (error) => {
    show(at.problem, !!error);
    text(at.problem, error ? [error.message, error.hint, error.id && `Error ${error.id}.`].filter(Boolean).join(" ") : "");
  };
  // A failed request that is no refusal is a lost connection: the next poll says so until it comes back.
  const guarded = async (work) => {
    try { complain(null); return await work(); }
    catch (error) {
      complain(error instanceof TypeError ? { message: "The studio did not answer.", hint: "Your run is safe. Try again when the connection is back." } : error);
      return null;
    }
  };

  const act = (action, details = {}, { run = lab.run } = {}) => guarded(async () => {
    const answer = await send(`${LAB()}${run.id}/act`, { action, ...details }, run.token);
    poll();
    return answer;
  });

  const fetchRuns = async () => {
    const found = await send(`${LAB()}runs`, { owner: svi.owner() });
    Object.assign(lab, found);
    drawModels();
    return found;
  };

  // ---- one run at a time -------------------------------------------------------------------------------------------

  let timer = null, polling = false, again = false, since = null;

  const poll = async () => {
    clearTimeout(timer);
    if (!lab.run || document.body.dataset.view !== "lab") return;
    if (polling) { again = true; return; }
    polling = true;
    const run = lab.run;
    try {
      const query = since === null ? "" : `?since=${since}`;
      const reply = await fetch(svi.signed(`${LAB()}${run.id}/state${query}`), { headers: { "X-Studio-Token": run.token }, cache: "no-store" });
      if (run !== lab.run) return;
      if (reply.status === 200) { lab.state = await reply.json(); since = lab.state.rev; lost(false); draw(); }
      else if (reply.status === 204) lost(false);
      else if (reply.status === 404) { select(null); await refresh(); }
      else throw new Error(`state answered ${reply.status}`);
    } catch (error) { console.debug(error); since = null; lost(true); }
    finally {
      polling = false;
      if (again) { again = false; poll(); } else timer = setTimeout(poll, document.hidden ? HIDDEN_MS : POLL_MS);
    }
  };
  let away = false;
  const lost = (now) => {
    if (now) complain({ message: "Connection lost.", hint: "Training goes on. Trying again every second." });
    else if (away) complain(null);
    away = now;
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });

  const select = (run) => {
    if (run?.id === lab.run?.id) return;
    settle();
    lab.run = run;
    lab.state = since = null;
    for (const list of [rows, sheets]) { for (const row of list.values()) row.node.remove(); list.clear(); }
    address();
    draw();
    poll();
  };

  const refresh = () => guarded(async () => {
    await fetchRuns();
    const wanted = location.hash.match(/^#lab=([a-z0-9]{26})$/)?.[1] ?? lab.run?.id;
    if (!lab.run) select(lab.runs.find((run) => run.id === wanted) ?? lab.runs[0] ?? null);
    draw();
  });

  const create = () => guarded(async () => {
    const made = await send(`${LAB()}new`, { owner: svi.owner() });
    lab.run = null;
    await fetchRuns();
    select(lab.runs.find((run) => run.id === made.id));
    at.files.focus();
  });

  const remove = async () => {
    const name = lab.state?.title ?? "this run";
    const sure = await svi.dialog("Delete this run?", el("p", {}, `“${name}”, its videos and its LoRA are deleted for good.`),
      [{ label: "Keep it", answer: null }, { label: "Delete", answer: true, kind: "accent" }]);
    if (!sure) return;
    const run = lab.run;
    if (await act("delete", {}, { run })) { select(null); await refresh(); }
  };

  // ---- which view --------------------------------------------------------------------------------------------------

  const address = () => {
    const url = new URL(location.href);
    url.hash = document.body.dataset.view === "lab" ? (lab.run ? `lab=${lab.run.id}` : "lab") : "";
    history.replaceState(history.state, "", url);
  };

  svi.view = (name) => {
    document.body.dataset.view = name;
    for (const button of document.querySelectorAll("button[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === name));
    if (name === "lab") { svi.parts.player?.pause?.(); if (at.body) enter(); }
    else address();
    window.scrollTo(0, 0);
  };

  const enter = async () => {
    await refresh();
    address();
    poll();
    if (at.entered) return;
    at.entered = true;
    const reply = await fetch(svi.signed(`${LAB()}drift`)).catch(() => null);
    drawDrift(reply?.ok ? (await reply.json()).curves : null);
  };

  // ---- drawing -----------------------------------------------------------------------------------------------------

  const rows = new Map(), sheets = new Map(), entries = new Map();

  const draw = () => {
    if (!at.body) return;
    const { state } = lab;
    kinds();
    show(at.welcome, lab.limits !== null && lab.runs.length === 0);
    show(at.body, lab.runs.length > 0);
    show(at.newRun, lab.runs.length > 0);
    if (state) {
      const known = lab.runs.find((run) => run.id === state.id);
      if (known) Object.assign(known, { title: state.title, status: state.status, step: state.step, steps: state.steps, variant: state.variant });
    }
    drawRuns();
    show(at.run, !!state);
    if (!state) return;
    fill(at.title, state.title);
    drawDeck(state);
    drawSettings(state);
    drawVideos(state);
    drawCurves(state);
    drawSamples(state);
  };

  // What somebody is typing, or what was not sent yet, is not overwritten.
  const fill = (field, value) => {
    if (document.activeElement !== field && !pending.has(field) && field.value !== String(value)) field.value = value;
  };

  const drawRuns = () => {
    const ids = new Set(lab.runs.map((run) => run.id));
    for (const [id, row] of entries) if (!ids.has(id)) { row.node.remove(); entries.delete(id); }
    lab.runs.forEach((run, index) => {
      let row = entries.get(run.id);
      if (!row) {
        const name = el("strong"), detail = el("span.dim"), button = el("button", { type: "button", onclick: () => select(lab.runs.find((one) => one.id === run.id)) }, name, detail);
        row = { node: el("li", {}, button), button, name, detail };
        entries.set(run.id, row);
      }
      if (at.runs.children[index] !== row.node) at.runs.insertBefore(row.node, at.runs.children[index] ?? null);
      text(row.name, run.title);
      text(row.detail, `${kindTitle(run.variant)} · ${STATUS[run.status] ?? run.status}${run.step && run.status !== "done" ? ` · ${run.step} of ${run.steps}` : ""}`);
      row.button.setAttribute("aria-current", String(run.id === lab.run?.id));
    });
  };
  const kindTitle = (name) => lab.limits?.variants.find((row) => row.name === name)?.title ?? name;

  let announced = "";
  const drawDeck = (state) => {
    const problem = state.error;
    text(at.message, problem ? [problem.message, problem.hint, problem.id && `Error ${problem.id}.`].filter(Boolean).join(" ") : state.message);
    at.message.toggleAttribute("data-failed", !!problem);
    const primary = busy ? { ...state.primary, label: busy, enabled: false } : state.primary;
    text(at.primary, primary.label);
    at.primary.setAttribute("aria-disabled", String(!primary.enabled));
    at.primary.toggleAttribute("data-busy", state.status === "pausing" || !!busy);
    text(at.reason, primary.enabled || state.message === primary.reason ? "" : primary.reason);
    show(at.use, state.status !== "draft" && primary.action !== "use");
    at.use.setAttribute("aria-disabled", String(!state.model.ready));
    at.use.title = state.model.ready ? `The LoRA of step ${state.model.step}` : state.model.reason;
    at.bar.style.setProperty("--done", `${(100 * state.step) / state.steps}%`);
    at.bar.toggleAttribute("data-running", state.status === "training");
    const words = STATUS[state.status];
    if (announced && announced !== words) text(at.announcer, `${state.title}: ${words}.`);
    announced = words;
  };

  const drawSettings = (state) => {
    for (const input of at.kinds.querySelectorAll("input")) { input.checked = input.value === state.variant; input.disabled = !state.editable; }
    text(at.promise, `${kindTitle(state.variant)}: ${lab.limits?.variants.find((row) => row.name === state.variant)?.promise ?? ""}.`);
    fill(at.steps, state.steps);
    at.steps.disabled = ["queued", "training", "pausing"].includes(state.status);
    const { plan } = state;
    show(at.planBox, state.videos.length > 0 && (plan.checking || plan.wanted || plan.groups.length > 0 || plan.problems.length > 0));
    const waiting = plan.checking || plan.wanted;
    const words = plan.problems.length ? plan.problems.join(" ") : plan.groups.length ? "It fits on this computer." : waiting ? "Checking memory and disk…" : "";
    text(at.planWords, [words, ...plan.notes].filter(Boolean).join(" "));
    at.planWords.toggleAttribute("data-bad", plan.problems.length > 0);
    const key = JSON.stringify(plan.groups);
    if (at.plan.dataset.key !== key) { at.plan.dataset.key = key; at.plan.replaceChildren(...plan.groups.map(needs)); }
    if (plan.wanted && !plan.checking) askForPlan();
  };

  const amount = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : bytes < 1e9 ? `${Math.round(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`);
  const needs = ([title, items, available]) => {
    const all = items.reduce((sum, [, bytes]) => sum + bytes, 0), table = el("dl");
    for (const [name, bytes] of items) table.append(el("dt", {}, name), el("dd", {}, amount(bytes)));
    return el("details", {}, el("summary", {}, el("span", {}, title), el("span.dim", {}, `${amount(all)} of ${amount(available)} free`)), table);
  };

  let planTimer = null;
  const askForPlan = () => {
    if (planTimer) return;
    const run = lab.run;
    planTimer = setTimeout(async () => { planTimer = null; if (run === lab.run && lab.state?.plan.wanted && !lab.state.plan.checking) await act("check"); }, CHECK_MS);
  };

  const drawVideos = (state) => {
    const names = new Set(state.videos.map((video) => video.name));
    for (const [name, row] of rows) if (!names.has(name)) { row.node.remove(); rows.delete(name); }
    state.videos.forEach((video, index) => {
      let row = rows.get(video.name);
      if (!row) rows.set(video.name, (row = videoRow(video)));
      if (at.videos.children[index] !== row.node) at.videos.insertBefore(row.node, at.videos.children[index] ?? null);
      fill(row.caption, video.caption);
      row.caption.readOnly = !state.editable;
      show(row.remove, state.editable);
      text(row.facts, `${video.width} × ${video.height}, ${video.seconds.toFixed(1)} s`);
    });
    show(at.drop, state.editable);
    at.notes.replaceChildren(...state.notes.map((note) => el("li", {}, note)));
  };

  const videoRow = (video) => {
    const shown = video.original || video.name;
    const caption = el("textarea", { rows: 2, maxLength: lab.limits?.max_caption ?? 1000, placeholder: "What happens, in a few words", "aria-label": `Caption of ${shown}` });
    caption.addEventListener("input", () => later(caption, () => act("caption", { video: video.name, caption: caption.value })));
    const facts = el("span.dim"), removeIt = el("button.quiet.round.tiny", { type: "button", "aria-label": `Remove ${shown}`, onclick: () => act("remove", { video: video.name }) }, svi.icon("close"));
    const node = el("li.lab-video", { "data-video": video.name },
      el("img", { src: svi.signed(video.poster_url), alt: "", width: 72, height: 54, loading: "lazy" }),
      el("div.lab-words", {}, el("div.lab-name", {}, el("strong", { title: shown }, shown), facts), caption), removeIt);
    return { node, caption, facts, remove: removeIt };
  };

  // Typed text is sent half a second after the last key, and at once when the run or the page is left.
  const pending = new Map();
  const later = (field, work) => {
    clearTimeout(pending.get(field)?.timer);
    const run = () => { clearTimeout(pending.get(field)?.timer); pending.delete(field); return work(); };
    pending.set(field, { timer: setTimeout(run, SAVE_MS), run });
  };
  const settle = () => Promise.all([...pending.values()].map(({ run }) => run()));
  window.addEventListener("pagehide", settle);

  const points = (xs, ys, low, high) => {
    const first = xs[0], span = xs[xs.length - 1] - first || 1;
    return xs.map((x, i) => (ys[i] === null || ys[i] === undefined ? null : [(100 * (x - first)) / span, 100 - (100 * (ys[i] - low)) / (high - low || 1)]));
  };
  // A line breaks where there is no value.
  const line = (all) => all.map((p, i) => (p ? `${i && all[i - 1] ? "L" : "M"}${p[0].toFixed(2)} ${Math.min(100, Math.max(0, p[1])).toFixed(2)}` : "")).join("");
  const band = (upper, lower) => {
    const both = upper.map((p, i) => p && lower[i]).map(Boolean), from = both.indexOf(true), to = both.lastIndexOf(true) + 1;
    if (from < 0) return "";
    return `${line(upper.slice(from, to).filter(Boolean))}${line(lower.slice(from, to).filter(Boolean).reverse()).replace("M", "L")}Z`;
  };
  const smoothed = (values) => {
    const reach = Math.max(1, Math.floor(values.length / 16));
    return values.map((_, i) => { const part = values.slice(Math.max(0, i - reach), i + reach + 1); return part.reduce((a, b) => a + b, 0) / part.length; });
  };
  const short = (value) => (value === 0 ? "0" : Math.abs(value) < 0.001 || Math.abs(value) >= 1000 ? value.toExponential(1) : String(Number(value.toPrecision(3))));
  const percent = (share) => { const value = 100 * share; return `${value > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} %`; };

  const drawCurves = ({ curve, steps }) => {
    const { steps: xs, loss, fill: banks } = curve;
    show(at.curves, xs.length > 0);
    if (!xs.length) return;
    const smooth = smoothed(loss), high = Math.max(...loss), low = Math.min(...loss);
    at.lossRaw.setAttribute("d", line(points(xs, loss, low, high)));
    at.lossSmooth.setAttribute("d", line(points(xs, smooth, low, high)));
    text(at.lossHigh, short(high));
    text(at.lossLow, short(low));
    const last = xs[xs.length - 1], trend = xs.length > 8 ? `, ${short(smooth[0])} at the start and ${short(smooth[smooth.length - 1])} now on average` : "";
    text(at.lossWords, `${short(loss[loss.length - 1])} at step ${last} of ${steps}${trend}`);
    at.lossChart.setAttribute("aria-label", `Loss by step: ${at.lossWords.textContent}`);
    const known = banks.filter((share) => share !== null), top = Math.max(0.01, ...known) * 1.05;
    const up = points(xs, banks, 0, top);
    at.fillLine.setAttribute("d", line(up));
    at.fillArea.setAttribute("d", band(up, points(xs, banks.map((share) => (share === null ? null : 0)), 0, top)));
    text(at.fillHigh, percent(top));
    text(at.fillWords, known.length ? `${percent(known[known.length - 1])} full: errors of its own that it learns to leave behind` : "none");
    at.fillChart.setAttribute("aria-label", `Fill of the error bank by step: ${at.fillWords.textContent}`);
  };

  const drawSamples = ({ samples }) => {
    show(at.samplesBox, samples.length > 0);
    for (const sample of samples) {
      if (sheets.has(sample.step)) continue;
      const node = el("li", {}, el("img", { src: svi.signed(sample.url), alt: `Sample of step ${sample.step}` }), el("span.dim", {}, `Step ${sample.step}`));
      sheets.set(sample.step, { node });
      at.samples.prepend(node);
    }
  };

  // ---- the drift benchmark -----------------------------------------------------------------------------------------

  let metric = null;
  const drawDrift = (curves) => {
    show(at.driftNone, !curves);
    show(at.driftBox, !!curves);
    if (!curves) return;
    const names = Object.keys(curves.metrics ?? {}).length ? curves.metrics : { psnr: "PSNR of the last frame, dB" };
    metric ??= Object.keys(names)[0];
    at.metrics.replaceChildren(...Object.entries(names).map(([name, title]) => el("button.chip", {
      type: "button", "aria-pressed": String(name === metric), onclick: () => { metric = name; drawDrift(curves); at.metrics.querySelector("[aria-pressed=true]").focus(); },
    }, title)));
    const arms = Object.entries(curves.arms).map(([name, arm]) => ({ name, ...arm })).filter((arm) => arm[metric]?.mean && (ARMS[arm.role] || !arm.role));
    const variants = [...new Set(arms.map((arm) => arm.variant ?? "film"))];
    at.panels.replaceChildren(...variants.map((variant) => panel(variant, names[metric], arms.filter((arm) => (arm.variant ?? "film") === variant))));
  };

  const panel = (variant, title, arms) => {
    const all = arms.flatMap((arm) => [...arm[metric].mean, ...(arm[metric].low ?? []), ...(arm[metric].high ?? [])]).filter((value) => value !== null);
    const low = Math.min(...all), high = Math.max(...all);
    const svg = document.createElementNS(SVG, "svg");
    for (const [key, value] of Object.entries({ viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" })) svg.setAttribute(key, value);
    const legend = el("ul.lab-legend", { role: "list" }), words = [];
    const path = (kind, role, d) => { const node = document.createElementNS(SVG, "path"); node.setAttribute("class", `${kind} arm-${role}`); node.setAttribute("d", d); svg.append(node); };
    for (const arm of arms) {
      const role = arm.role in ARMS ? arm.role : "base", { mean, low: under, high: over } = arm[metric], clips = mean.map((_, i) => i + 1);
      if (under && over) path("area", role, band(points(clips, over, low, high), points(clips, under, low, high)));
      path("smooth", role, line(points(clips, mean, low, high)));
      const ends = mean.filter((value) => value !== null), shown = ARMS[arm.role] ?? arm.name;
      words.push(`${shown}: ${short(ends[0])}, then ${short(ends[ends.length - 1])}`);
      legend.append(el("li", {}, el(`i.arm-${role}`, { "aria-hidden": "true" }), shown, el("span.dim", {}, ` ${short(ends[0])} → ${short(ends[ends.length - 1])}`)));
    }
    svg.setAttribute("aria-label", `${title}, clip by clip. ${words.join(". ")}.`);
    const count = Math.max(...arms.map((arm) => arm[metric].mean.length));
    return el("figure", {}, el("figcaption", {}, el("h4", {}, kindTitle(variant)), el("span.dim", {}, `${title}, clips 1 to ${count}`)),
      el("div.lab-plot.tall", {}, el("span.dim", { "aria-hidden": "true" }, short(high)), el("span.dim", { "aria-hidden": "true" }, short(low)), svg), legend);
  };

  // ---- uploads -----------------------------------------------------------------------------------------------------

  const isTable = (file) => /\.(csv|jsonl)$/i.test(file.name);
  const upload = async (file) => {
    if (file.size > MAX_MB * 1e6) throw Object.assign(new Error(`“${file.name}” has more than ${MAX_MB} MB.`), { hint: "Cut it, or save it smaller." });
    const form = new FormData();
    form.append("files", file);
    const reply = await fetch(svi.signed(`${API()}upload`), { method: "POST", body: form });
    if (!reply.ok) throw await refuse(reply);
    return (await reply.json())[0];
  };

  let taking = Promise.resolve();
  const take = (files) => (taking = taking.then(() => takeInto(lab.run, files)).catch((error) => complain(error)));
  const takeInto = async (run, files) => {
    const videos = files.filter((file) => !isTable(file)), tables = files.filter(isTable), refused = [];
    for (const [index, file] of videos.entries()) {
      text(at.uploading, `Adding ${index + 1} of ${videos.length}: ${file.name}`);
      try { await send(`${LAB()}${run.id}/act`, { action: "add", upload: await upload(file), name: file.name.slice(0, 200) }, run.token); }
      catch (error) { refused.push(`${file.name}: ${error.message} ${error.hint ?? ""}`.trim()); }
      poll();
    }
    let note = "";
    for (const file of tables) {
      try {
        const { matched, unmatched } = await send(`${LAB()}${run.id}/act`, { action: "captions", name: file.name.slice(0, 200), text: await file.text() }, run.token);
        note = `${matched} caption${matched === 1 ? "" : "s"} found in ${file.name}${unmatched ? `, ${unmatched} for videos that are not here` : ""}.`;
      } catch (error) { refused.push(`${file.name}: ${error.message} ${error.hint ?? ""}`.trim()); }
      poll();
    }
    text(at.uploading, note);
    complain(refused.length ? { message: refused.join(" "), hint: "" } : null);
  };

  // ---- the model of the next film ----------------------------------------------------------------------------------

  const drawModels = () => {
    const field = at.model;
    if (!field) return;
    const chosen = svi.form.model ?? "", open = svi.state?.project;
    const wanted = ["", ...lab.models.map((model) => model.name)];
    if ([...field.options].map((option) => option.value).join() !== wanted.join()) {
      field.replaceChildren(el("option", { value: "" }, svi.setup.model ?? "The embedded model"), ...lab.models.map((model) => el("option", { value: model.name }, model.title)));
    }
    field.value = wanted.includes(chosen) ? chosen : "";
    show(at.modelField, !svi.id && lab.models.length > 0);
    const model = lab.models.find((one) => one.name === field.value);
    const warned = model && svi.form.variant !== model.variant ? ` Choose ${kindTitle(model.variant)} above: only there it has an effect.` : "";
    text(at.modelNote, open ? (open.preset.startsWith("lab-") ? `Made with ${open.preset_title}.` : "") : model && !svi.id ? `Trained in the Lab for ${kindTitle(model.variant)}.${warned}` : "");
  };
  svi.modelChanged = drawModels;

  const choose = (model) => {
    svi.form.model = model?.name ?? "";
    if (model) document.querySelector(`#variant input[value="${model.variant}"]`)?.click();
    drawModels();
  };

  const use = async () => {
    const answer = await act("use");
    if (!answer?.model) return;
    if (svi.id) { sessionStorage.setItem("svi:model", answer.model.name); svi.view("film"); return svi.leave(); }
    await guarded(fetchRuns);
    choose(answer.model);
    svi.view("film");
    svi.tab("setup");
    svi.say(`Your next film is made with ${answer.model.title}.`);
  };

  // ---- the buttons -------------------------------------------------------------------------------------------------

  let busy = "";
  const primary = async () => {
    const { primary: button } = lab.state;
    if (!button.enabled || busy) { text(at.announcer, ""); setTimeout(() => text(at.announcer, button.reason), 50); return; }
    if (button.action === "use") return use();
    busy = { start: "Starting…", resume: "Resuming…", pause: "Pausing…" }[button.action] ?? button.label;
    draw();
    await settle();
    try { await act(button.action); } finally { busy = ""; draw(); }
  };

  svi.mounts.lab = (element) => {
    for (const node of element.querySelectorAll("[data-lab]")) at[node.dataset.lab] = node;
    at.newRun.addEventListener("click", create);
    at.firstRun.addEventListener("click", create);
    at.remove.addEventListener("click", remove);
    at.primary.addEventListener("click", primary);
    at.use.addEventListener("click", () => (lab.state.model.ready ? use() : complain({ message: lab.state.model.reason, hint: "" })));
    at.title.addEventListener("input", () => later(at.title, () => act("set", { title: at.title.value })));
    at.steps.addEventListener("input", () => later(at.steps, () => act("set", { steps: Number(at.steps.value) })));
    at.files.addEventListener("change", () => { const files = [...at.files.files]; at.files.value = ""; take(files); });
    for (const kind of ["dragenter", "dragover"]) at.drop.addEventListener(kind, (event) => { event.preventDefault(); at.drop.toggleAttribute("data-over", true); });
    for (const kind of ["dragleave", "drop"]) at.drop.addEventListener(kind, () => at.drop.toggleAttribute("data-over", false));
    at.drop.addEventListener("drop", (event) => { event.preventDefault(); take([...event.dataTransfer.files]); });
    svi.view(location.hash.startsWith("#lab") ? "lab" : "film");
  };

  svi.mounts.model = (element) => {
    for (const node of element.querySelectorAll("[data-lab]")) at[node.dataset.lab] = node;
    at.model.addEventListener("change", () => choose(lab.models.find((model) => model.name === at.model.value)));
    svi.parts.model = { update: drawModels };
    setTimeout(async () => {
      if (!localStorage.getItem("svi:owner")) return;
      await fetchRuns().catch(() => null);
      const wanted = sessionStorage.getItem("svi:model");
      sessionStorage.removeItem("svi:model");
      if (wanted && !svi.id) choose(lab.models.find((model) => model.name === wanted));
    }, 0);
  };

  const kinds = () => {
    if (!lab.limits || !at.kinds || at.kinds.childElementCount) return;
    for (const variant of lab.limits.variants) {
      const input = el("input", { type: "radio", name: "lab-kind", value: variant.name, onchange: () => act("set", { variant: variant.name }) });
      at.kinds.append(el("label", {}, input, el("span", {}, variant.title)));
    }
    at.steps.min = lab.limits.min_steps;
    at.steps.max = lab.limits.max_steps;
    text(at.limits, `Up to ${lab.limits.max_videos} MP4, MOV, MKV or WebM files of up to ${lab.limits.max_seconds / 60} minutes and ${MAX_MB} MB. A captions.csv or .jsonl fills in the captions.`);
  };
})();
