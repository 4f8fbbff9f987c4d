// The storyboard: one card per clip, keyed by id and patched in place. A field that has focus or unsent text is never
// touched. Knows the cards only; svi (page.js) sends, the player plays.
(() => {
  "use strict";

  const { svi } = window;
  const { el, icon, text, show } = svi;
  const MAX_PROMPT = 1000, MAX_NEGATIVE = 2000, MAX_SHOWN = 16;  // characters, characters, words
  const STATUS = {
    draft: "Planned", queued: "Waiting", running: "Rendering", done: "Done", stale: "Out of date", failed: "Failed", canceled: "Stopped",
  };
  const LOWEST = 0.4, LIMIT = 0.65;  // the chart's floor, and where the background begins to count as lost
  const COLOURS = [[2.3, "as in the picture"], [10, "a little different"], [30, "different"], [Infinity, "very different"]];  // 2.3: just visible

  const percent = (share) => `${Math.round(100 * Math.max(0, share))} %`;
  // [name, the fault it stands for, words] of what was measured of a take.
  const FIGURES = [
    ["Background", "structure", ({ structure }) => `${percent(structure)} like the picture`],
    ["Sharpness", "sharpness", ({ sharpness }) => `${percent(sharpness)} of the picture’s`],
    ["Grain", "grain", ({ grain }) => (grain < 0.005 ? "none added" : `${(100 * grain).toFixed(1)} % added`)],
    ["Motion", "", ({ movement, motion }) => ({ none: "none, it stands still", light: "only the light changes", things: `${percent(motion)} of the edges move` })[movement]],
    ["Colour", "", ({ colour_shift: shift }) => `${COLOURS.find(([below]) => shift < below)[1]} (${Math.round(shift)})`],
  ];

  svi.mounts.storyboard = (element) => { svi.parts.storyboard = new Storyboard(element); };

  class Storyboard {
    constructor(root) {
      this.root = root;
      const at = (name) => root.querySelector(`[data-at=${name}]`);
      this.list = at("cards");
      this.empty = at("noCards");
      this.count = at("count");
      this.end = at("end");
      this.moves = at("boardMoves");
      this.movesTitle = at("boardMovesTitle");
      this.drift = Object.fromEntries(["drift", "driftChart", "driftLimit", "driftDrifting", "driftDrifted", "driftLikeness", "driftText", "driftShow"].map((name) => [name, at(name)]));
      this.drift.driftShow.addEventListener("click", () => this.showDrift(this.state.drift.clip_id));
      this.dial = new svi.Dial(root);
      this.story = new svi.Story(root, this.list);
      [this.log, this.logList] = [at("log"), at("logList")];
      this.cards = new Map();
      this.active = null;
      this.lastPrompt = null;
      this.dragged = null;
      at("endAdd").append(icon("plus"), "Add an empty clip");
      at("endAdd").addEventListener("click", () => this.insert(null));
      for (const button of root.querySelectorAll("[data-extend]")) {
        const count = button.dataset.extend;
        button.addEventListener("click", () => svi.extend(count === "forever" ? count : Number(count)));
      }
      this.list.addEventListener("focusin", (event) => this.activate(event.target.closest("[data-clip]")?.dataset.clip));
      this.list.addEventListener("dragover", (event) => this.dragOver(event));
      this.list.addEventListener("drop", (event) => this.drop(event));
    }

    // ---- patching --------------------------------------------------------------------------------------------------

    update(state) {
      this.state = state;
      const { clips } = state;
      const ids = new Set(clips.map((clip) => clip.id));
      const focused = document.activeElement?.closest?.("[data-clip]");
      for (const [id, card] of this.cards) {
        if (ids.has(id)) continue;
        const next = card.node === focused ? this.nearest(card.node, ids) ?? svi.elements.primary : null;
        card.node.remove();
        this.cards.delete(id);
        next?.focus();
      }
      let place = this.list.firstElementChild;
      for (const clip of clips) {
        const card = this.cards.get(clip.id) ?? this.build(clip);
        if (card.node === place) place = place.nextElementSibling;
        else this.put(card.node, place);
        this.patch(card, clip, state);
      }
      if (!this.active || !ids.has(this.active)) this.activate(clips[0]?.id);
      const { drafting } = state.story;
      show(this.empty, clips.length === 0 && !drafting);
      if (state.view_only) text(this.empty, "This film has no clips yet.");
      show(this.end, clips.length > 0 && !state.view_only && !drafting && !state.outgrown);
      text(this.count, clips.length ? `${clips.length} clip${clips.length === 1 ? "" : "s"}, ${svi.clock(state.film.planned_s)}` : "");
      this.drawMoves(state);
      this.drawDrift(state);
      this.dial.update(state);
      this.story.update(state);
      this.drawLog(state.notices);
    }

    // The card that stays nearest to `node`: the one after it, or else the one before.
    nearest(node, ids) {
      for (const side of ["nextElementSibling", "previousElementSibling"]) {
        for (let one = node[side]; one; one = one[side]) if (ids.has(one.dataset.clip)) return one;
      }
      return null;
    }

    // What the backend had to change to go on; a long film may have many, so they are folded away.
    drawLog(notices) {
      show(this.log, notices.length > 0);
      while (this.logList.childElementCount > notices.length) this.logList.lastChild.remove();
      notices.forEach(({ number, text: words }, row) => text(this.logList.children[row] ?? this.logList.appendChild(el("li", {})), `Clip ${number}: ${words}`));
    }

    // Moves a card without taking focus or caret away from it.
    put(node, before) {
      if (node.isConnected && this.list.moveBefore) { this.list.moveBefore(node, before); return; }
      const focused = node.contains(document.activeElement) ? document.activeElement : null;
      const range = focused && "selectionStart" in focused ? [focused.selectionStart, focused.selectionEnd] : null;
      this.list.insertBefore(node, before);
      if (focused) { focused.focus({ preventScroll: true }); if (range) try { focused.setSelectionRange(...range); } catch { /* number */ } }
    }

    build({ id }) {
      const node = el("li.card", { tabIndex: -1 });
      node.dataset.clip = id;
      const card = { id, node, shown: {} };
      const part = (name, made) => (card[name] = made);
      const mine = () => this.state.clips.find((clip) => clip.id === id);
      card.clip = mine;

      node.append(
        el("div.shot", {},
          part("image", el("img", { alt: "", loading: "lazy", decoding: "async", hidden: true })),
          part("blank", el("span.blank", {})),
          part("tag", el("span.tag", { hidden: true }, "preview")),
          part("draft", el("span.draft-mark", { hidden: true }, "Draft")),
          part("meter", el("button.meter", { type: "button", tabIndex: -1, hidden: true, "aria-expanded": "false", "aria-controls": `drift-${id}`, onclick: () => this.openDrift(card, card.drift.hidden) },
            el("span.bars", { "aria-hidden": "true" }, el("i"), el("i"), el("i")), part("meterLabel", el("span", {})))),
          part("time", el("span.span", {})),
          part("progress", el("span.progress", { hidden: true }, el("i", {})))),
        part("drift", el("div.drift", { id: `drift-${id}`, role: "group", hidden: true }, part("figures", el("dl", {})), part("driftHint", el("p", { hidden: true })))),
        el("div.card-head", {},
          part("number", el("span.number", {})),
          part("status", el("span.status", {})),
          part("handle", el("span.grip", { draggable: true, title: "Drag to move", "aria-hidden": "true" }, icon("grip"))),
          part("menu", el("button.quiet.more", { type: "button", tabIndex: -1, "aria-haspopup": "menu", "aria-expanded": "false", onclick: () => this.menu(card) }, icon("more")))),
        part("caption", el("p.caption", { dir: "auto", hidden: true })),
        part("prompt", el("textarea.prompt", {
          rows: 2, tabIndex: -1, spellcheck: true, dir: "auto",
          oninput: () => this.typed(card), onblur: () => this.left(card), onfocus: () => { this.lastPrompt = card; },
          onkeydown: (event) => { if (event.key === "Escape") { event.stopPropagation(); card.node.focus(); } },
        })),
        part("notice", el("p.notice", { hidden: true })),
        part("counter", el("p.counter", { hidden: true })),
        part("hint", el("p.hint", { hidden: true }, part("hintMoves", el("b", {})), part("hintHeard", el("span", {})), part("hintIgnored", el("span", {})))),
        part("remarks", el("ul.remarks", { hidden: true })),
        part("problem", el("div.card-problem", { hidden: true }, part("problemText", el("span", {})),
          part("retry", el("button.plain.small", { type: "button", tabIndex: -1, onclick: () => svi.act("retry") }, "Retry")),
          part("again", el("button.plain.small", { type: "button", tabIndex: -1, hidden: true, onclick: () => svi.sendAgain(card.id) }, "Save again")),
          part("discard", el("button.plain.small", { type: "button", tabIndex: -1, hidden: true, onclick: () => this.discard(card) }, "Discard")))),
        part("badge", el("div.badge", { hidden: true }, part("badgeText", el("span", {})),
          part("renew", el("button.plain.small", { type: "button", tabIndex: -1, onclick: () => this.regenerate(card) }, "Regenerate")))),
        el("div.card-foot", {},
          part("takes", el("div.takes", { hidden: true, role: "group" },
            part("earlier", el("button.quiet.tiny", { type: "button", tabIndex: -1, onclick: () => this.take(card, -1) }, icon("left"))),
            part("takeText", el("span", {})),
            part("later", el("button.quiet.tiny", { type: "button", tabIndex: -1, onclick: () => this.take(card, 1) }, icon("right"))))),
          el("label.seed", {}, "seed", part("seed", el("input", {
            type: "number", min: 0, max: 2147483647, step: 1, tabIndex: -1, inputMode: "numeric",
            onchange: () => this.seedChanged(card), onblur: () => this.patch(card, mine() ?? card.shown, this.state),
          })))),
      );
      node.addEventListener("click", (event) => { if (!event.target.closest("button, textarea, input, a")) { this.select(card); } });
      card.handle.addEventListener("dragstart", (event) => this.dragStart(event, card));
      card.handle.addEventListener("dragend", () => this.dragEnd());
      this.cards.set(id, card);
      return card;
    }

    patch(card, clip, state) {
      if (!clip?.id) return;
      const awaited = this.story.awaited(state, clip.id);
      const unsent = svi.waiting("set_prompt", clip.id), old = card.acknowledged && state.rev < card.acknowledged;
      const locked = state.view_only || !clip.editable || (!!awaited && !unsent && !old);  // text that was typed first stays
      const signature = JSON.stringify([clip, svi.parked(clip.id)?.parked, awaited, state.view_only, state.project.fps, state.vocabulary?.length, state.story.telling.language]);
      const { node } = card;
      if (signature === card.signature && !card.stalePrompt) return;
      card.signature = signature;
      card.shown = clip;

      node.dataset.status = clip.status;
      node.setAttribute("aria-label", `Clip ${clip.number}, ${STATUS[clip.status] ?? clip.status}${clip.draft ? ", a draft" : ""}`);
      text(card.number, String(clip.number));
      text(card.time, `${svi.clock(clip.start_s)} – ${svi.clock(clip.end_s)}`);
      const step = clip.status === "running" && clip.of ? ` ${clip.step} / ${clip.of}` : "";
      text(card.status, awaited || (STATUS[clip.status] ?? clip.status) + step);
      node.toggleAttribute("data-awaited", !!awaited);

      const preview = clip.status === "running" && clip.preview_url;
      this.picture(card, svi.signed(preview || clip.poster_url), !!preview);
      show(card.tag, !!preview);
      show(card.draft, clip.draft);
      show(card.progress, clip.status === "running");
      card.progress.firstElementChild.style.width = `${clip.of ? (100 * clip.step) / clip.of : 0}%`;
      this.measured(card, clip);
      text(card.blank, clip.status === "running" ? "first preview on its way" : clip.status === "queued" ? "waiting" : "not rendered");

      // The field belongs to whoever types in it; nobody types where nothing can be written.
      const typing = document.activeElement === card.prompt && !card.prompt.readOnly;
      card.stalePrompt = false;
      if (typing || unsent || old) {
        if (unsent && document.activeElement !== card.prompt && card.prompt.value !== unsent.prompt) card.prompt.value = unsent.prompt;
        card.stalePrompt = true;
      } else if (card.prompt.value !== clip.prompt) card.prompt.value = clip.prompt;
      card.prompt.readOnly = locked;
      card.prompt.setAttribute("aria-label", `Prompt of clip ${clip.number}`);
      this.told(card, clip, locked);
      if (document.activeElement !== card.prompt) this.counts(card);
      this.hint(card);

      if (document.activeElement !== card.seed && !svi.waiting("set_seed", clip.id)) card.seed.value = String(clip.seed);
      card.seed.readOnly = locked;
      card.seed.classList.toggle("own", clip.seed_is_own);
      card.seed.title = clip.seed_is_own ? "A seed of this clip’s own" : "From the film’s seed";
      card.seed.setAttribute("aria-label", `Seed of clip ${clip.number}`);

      const takes = clip.takes ?? [];
      const index = takes.findIndex((take) => take.shown);
      show(card.takes, takes.length > 0);
      card.takes.setAttribute("aria-label", `Takes of clip ${clip.number}`);
      text(card.takeText, takes.length ? `take ${index + 1 || "–"} of ${takes.length}` : "");
      for (const [button, by, name] of [[card.earlier, -1, "Earlier take"], [card.later, 1, "Later take"]]) {
        show(button, takes.length > 1);
        button.setAttribute("aria-label", `${name} of clip ${clip.number}`);
        button.disabled = locked || index < 0 || !takes[index + by];
      }

      text(card.notice, clip.notice);
      show(card.notice, !!clip.notice);
      show(card.badge, !!clip.badge);
      text(card.badgeText, clip.badge ? clip.badge[0].toUpperCase() + clip.badge.slice(1) : "");
      show(card.renew, clip.status === "stale" && !locked && !state.outgrown);
      const refusal = svi.parked(clip.id)?.parked, problem = refusal ?? clip.error;
      show(card.problem, !!problem);
      if (problem) text(card.problemText, [problem.message, problem.hint, problem.id && `Error ${problem.id}`].filter(Boolean).join(" "));
      show(card.retry, clip.status === "failed" && !refusal && !state.view_only);
      show(card.again, !!refusal);
      show(card.discard, !!refusal);
      show(card.menu, true);
      card.menu.setAttribute("aria-label", `More for clip ${clip.number}`);
      show(card.handle, !locked);
    }

    // What the card says in the creator's own language, what is odd about its prompt, what it shall not show.
    told(card, clip, locked) {
      text(card.caption, clip.caption);
      card.caption.lang = clip.caption_language || svi.state.story.telling.language;
      show(card.caption, !!clip.caption);
      if (clip.caption) card.prompt.lang = "en"; else card.prompt.removeAttribute("lang");
      const { remarks } = clip;
      const key = remarks.join("\n");
      if (key !== card.remarks.dataset.key) {
        card.remarks.dataset.key = key;
        card.remarks.replaceChildren(...remarks.map((words) => el("li", {}, icon("note"), el("span", {}, words))));
      }
      show(card.remarks, remarks.length > 0);
      const waiting = svi.waiting("set_negative_prompt", clip.id);
      this.negative(card, (waiting ? waiting.negative_prompt : clip.negative_prompt) ?? "", locked);
    }

    // A negative prompt of the clip's own is there once somebody wants one; an empty field says what the film says.
    negative(card, own, locked) {
      const field = card.negative;
      if (!field && !own) return;
      const { text: area, node } = field ?? this.buildNegative(card);
      area.readOnly = locked;
      area.placeholder = svi.state.project.negative_prompt || "what it should not show";
      if (document.activeElement === area) return;
      if (area.value !== own) area.value = own;
      show(node, !!own);
    }

    buildNegative(card) {
      const area = el("textarea", {
        rows: 1, tabIndex: card.node.tabIndex, dir: "auto", maxLength: MAX_NEGATIVE,
        oninput: () => svi.edit("set_negative_prompt", { clip_id: card.id, negative_prompt: area.value.trim() || null }),
        onblur: () => { show(node, !!area.value.trim()); },
        onkeydown: (event) => { if (event.key === "Escape") { event.stopPropagation(); card.node.focus(); } },
      });
      const node = el("label.negative", { hidden: true }, el("span", {}, "Negative prompt"), area);
      card.problem.before(node);
      return (card.negative = { text: area, node });
    }

    openNegative(card) {
      const { text: area, node } = card.negative ?? this.buildNegative(card);
      this.negative(card, card.shown.negative_prompt ?? "", false);
      show(node, true);
      area.focus();
    }

    // ---- drift -----------------------------------------------------------------------------------------------------

    // The meter over the picture takes no room of its own, so that nothing moves when a clip is finished.
    measured(card, { drift, number }) {
      show(card.meter, !!drift);
      if (!drift) { this.openDrift(card, false); return; }
      text(card.meterLabel, drift.label);
      card.meter.dataset.level = drift.level === "steady" && drift.movement === "none" ? "still" : drift.level;
      card.meter.setAttribute("aria-label", `Drift of clip ${number}: ${drift.label}`);
      card.drift.setAttribute("aria-label", `Drift of clip ${number}`);
      if (!card.drift.hidden) this.figures(card, drift);
    }

    openDrift(card, open) {
      if (open) this.figures(card, card.shown.drift);
      show(card.drift, open);
      card.meter.setAttribute("aria-expanded", String(open));
    }

    figures(card, drift) {
      if (!card.figures.childElementCount) for (const [name] of FIGURES) card.figures.append(el("dt", {}, name), el("dd", {}));
      const values = card.figures.querySelectorAll("dd");
      FIGURES.forEach(([, fault, words], row) => {
        text(values[row], words(drift));
        values[row].toggleAttribute("data-fault", drift.causes.includes(fault));
      });
      text(card.driftHint, this.state.view_only ? "" : drift.hint);
      show(card.driftHint, !!card.driftHint.textContent);
    }

    // One chart for all clips, four paths however many there are.
    drawDrift({ clips, drift }) {
      const at = this.drift;
      show(at.drift, clips.length > 0 || !!this.state.story.drafting);
      text(at.driftText, drift.text);
      show(at.driftShow, !!drift.clip_id);
      const first = clips.find((clip) => clip.id === drift.clip_id);
      text(at.driftShow, first ? `Show clip ${first.number}` : "");
      const known = clips.map((clip) => clip.drift);
      const height = (share) => Math.round(100 * Math.min(1, (1 - share) / (1 - LOWEST)));
      const marks = (level) => known.map((one, x) => (one?.level === level ? `M${x + 0.5} 100V${height(one.structure)}` : "")).join("");
      const line = known.map((one, x) => (one ? `${known[x - 1] ? "L" : "M"}${x + 0.5} ${height(one.structure)}h0` : "")).join("");
      const paths = { driftLimit: `M0 ${height(LIMIT)}H${clips.length}`, driftDrifting: marks("drifting"), driftDrifted: marks("drifted"), driftLikeness: line };
      const key = JSON.stringify(paths);
      if (key === this.driftKey) return;
      this.driftKey = key;
      at.driftChart.setAttribute("viewBox", `0 0 ${Math.max(1, clips.length)} 100`);
      for (const [name, path] of Object.entries(paths)) at[name].setAttribute("d", path);
      at.driftChart.setAttribute("aria-label", this.driftSpoken(clips.filter((clip) => clip.drift)));
    }

    driftSpoken(clips) {
      if (!clips.length) return "Likeness of the background to the picture: not measured yet";
      const lowest = clips.reduce((low, clip) => (clip.drift.structure < low.drift.structure ? clip : low));
      return `Likeness of the background to the picture: ${percent(clips.at(-1).drift.structure)} in clip ${clips.at(-1).number}, lowest ${percent(lowest.drift.structure)} in clip ${lowest.number}`;
    }

    showDrift(id) {
      const card = this.cards.get(id);
      if (!card) return;
      this.openDrift(card, true);
      card.node.focus({ preventScroll: true });
      card.node.scrollIntoView({ block: "center", behavior: svi.calm() ? "auto" : "smooth" });
    }

    picture({ image, blank }, url, moving) {
      const first = moving && !image.getAttribute("src");
      show(image, !!url && !first);
      show(blank, !url || first);
      if (!url) { image.removeAttribute("src"); delete image.dataset.url; }
      if (!url || image.dataset.url === url) return;
      image.dataset.url = url;
      if (!moving) { image.src = url; return; }
      const still = new Image();  // shown once it is here; a preview that was replaced meanwhile is skipped
      still.onload = () => {
        if (image.dataset.url !== url) return;
        show(image, true);
        show(blank, false);
        if (!svi.calm()) { image.src = url; return; }
        const canvas = el("canvas", { width: still.naturalWidth, height: still.naturalHeight });
        canvas.getContext("2d").drawImage(still, 0, 0);  // reduced motion: its first frame only
        image.src = canvas.toDataURL();
      };
      still.src = url;
    }

    // What the embedded model makes of the prompt as it was saved: the server says it, and nothing while one types.
    hint(card) {
      const { asked, prompt } = card.shown;
      const told = !!asked && card.prompt.value.replace(/\s+/g, " ").trim() === prompt;
      show(card.hint, told);
      if (!told) return;
      const quoted = (words) => `“${words.slice(0, MAX_SHOWN).join(" ")}${words.length > MAX_SHOWN ? " …" : ""}”`;
      text(card.hintMoves, asked.moves.join(", "));
      text(card.hintHeard, asked.moves.length ? ` from ${quoted(asked.heard)}.`
        : "No move the embedded model knows is in this prompt: the picture will hardly change. Pick one from the list above.");
      text(card.hintIgnored, asked.ignored.length ? ` Ignored: ${quoted(asked.ignored)}.` : "");
    }

    counts(card) {
      const { length } = card.prompt.value;
      text(card.counter, `${length.toLocaleString("en")} of ${MAX_PROMPT.toLocaleString("en")} characters`);
      show(card.counter, length > MAX_PROMPT * 0.9);
    }

    drawMoves(state) {
      const moves = state.vocabulary ?? [];
      const shown = moves.length > 0 && state.clips.length > 0 && !state.view_only;
      show(this.moves.parentElement, shown);
      const key = moves.map((move) => move.sentence).join("|");
      if (!shown || this.movesKey === key) return;
      this.movesKey = key;
      this.moves.replaceChildren(...svi.chips(moves, (move) => el("button.chip", {
        type: "button", "aria-label": `Use “${move.title}” in the selected clip’s prompt`,
        onmousedown: (event) => event.preventDefault(), onclick: () => this.usePhrase(move),
      }, move.title)));
    }

    usePhrase({ sentence }) {
      const card = this.cards.get(this.active);
      if (!card || card.prompt.readOnly) { svi.say("Choose a clip that can be edited first."); return; }
      card.prompt.focus();
      card.prompt.select();
      // insertText keeps the browser's own undo; the fallback does not.
      if (!document.execCommand("insertText", false, sentence)) { card.prompt.value = sentence; this.typed(card); }
      svi.say(`Clip ${card.shown.number}: ${sentence}`);
    }

    // ---- editing ---------------------------------------------------------------------------------------------------

    typed(card) {
      this.hint(card);
      this.counts(card);
      const prompt = card.prompt.value;
      if (prompt.trim()) { svi.edit("set_prompt", { clip_id: card.id, prompt }); text(card.problemText, ""); show(card.problem, false); }
      else { text(card.problemText, "Write what should happen in this clip. The last text is kept."); show(card.problem, true); }
    }

    left(card) {
      if (!card.prompt.value.trim()) { card.prompt.value = card.shown.prompt; show(card.problem, false); }
      if (this.state) this.patch(card, card.clip() ?? card.shown, this.state);
    }

    seedChanged(card) {
      const seed = Number(card.seed.value);
      if (card.seed.value === "") svi.edit("set_seed", { clip_id: card.id, seed: null }, { soon: true });
      else if (Number.isInteger(seed) && seed >= 0 && seed <= 2147483647) svi.edit("set_seed", { clip_id: card.id, seed }, { soon: true });
      else card.seed.value = String(card.shown.seed);
    }

    acknowledged(edit, rev) {
      const card = this.cards.get(edit.clip_id);
      if (card && rev) card.acknowledged = rev;
    }

    has(id) { return this.cards.has(id); }

    // Shows what the edit was refused for on the card it belongs to; the text stays as it was written.
    refused(edit) {
      const card = this.cards.get(edit.clip_id);
      if (card) this.patch(card, card.clip() ?? card.shown, this.state);
    }

    discard(card) {
      svi.discard(card.id);
      card.prompt.value = card.shown.prompt;
      if (card.negative) card.negative.text.value = card.shown.negative_prompt ?? "";
      this.patch(card, card.clip() ?? card.shown, this.state);
      card.node.focus();
    }

    take(card, by) {
      const { takes } = card.shown, index = takes.findIndex((take) => take.shown), wanted = takes[index + by];
      if (wanted) svi.act("pin", { clip_id: card.id, digest: wanted.digest });
    }

    async insert(after) {
      const answer = await svi.act("insert", { after: after ?? this.state.clips.at(-1)?.id ?? null });
      if (!answer?.clip_id) return;
      await svi.poll();
      for (let tries = 0; tries < 40 && !this.cards.has(answer.clip_id); tries += 1) await new Promise((resolve) => setTimeout(resolve, 50));
      const card = this.cards.get(answer.clip_id);
      card?.prompt.focus();
      card?.prompt.select();
    }

    async move(card, to) {
      const count = this.state.clips.length;
      if (to < 0 || to >= count || to === card.shown.index) return;
      const first = Math.min(to, card.shown.index);
      const finished = this.state.clips.slice(first).filter((clip) => clip.takes.length).length;
      if (await svi.act("move", { clip_id: card.id, to })) {
        svi.say(`Clip moved to place ${to + 1} of ${count}.${finished ? " Finished clips after it are kept and marked out of date." : ""}`);
      }
    }

    async remove(card) {
      const { number } = card.shown;
      const done = await svi.act("delete", { clip_id: card.id });
      if (done) svi.offerUndo(`Clip ${number} removed.`, done.undo_id);
    }

    async regenerate(card) {
      const clip = card.shown, { outgrown } = this.state;
      if (outgrown) return svi.complain({ message: outgrown, hint: "Make a copy at the new size; this one plays and exports as it is." });
      const after = this.dial.after(clip.index), later = after.length;
      const scopes = this.dial.scopes(
        { title: "This clip and everything after", note: `${later + 1} clip${later ? "s" : ""}${this.dial.time(this.dial.seconds([clip, ...after]))}` },
        { title: "Only this clip", note: this.dial.time(this.dial.seconds([clip])) });
      const prompt = el("textarea", { rows: 3, value: card.prompt.value, "aria-label": "Prompt", dir: "auto" });
      const tooLong = el("p.bad", { role: "alert", hidden: true });
      const chosen = () => {
        const { length } = prompt.value;
        if (length <= MAX_PROMPT) return { scope: body.querySelector("input:checked").value, prompt: prompt.value };
        text(tooLong, `The prompt has ${length.toLocaleString("en")} characters; up to ${MAX_PROMPT.toLocaleString("en")} are allowed. Shorten it.`);
        show(tooLong, true);
        prompt.focus();
        return undefined;
      };
      const body = el("div", {},
        el("p", {}, later
          ? `Clip ${clip.number + 1} continues the last frames of clip ${clip.number}. ${later} finished clip${later === 1 ? "" : "s"} after it would no longer fit.`
          : "The clip is made again with another seed. The earlier take is kept."),
        prompt, tooLong, scopes);
      const answer = await svi.dialog(`Regenerate clip ${clip.number}`, body, [
        { label: "Cancel", answer: null },
        { label: "Regenerate", kind: "accent", answer: chosen },
      ]);
      if (!answer) return;
      const details = { clip_id: card.id, scope: answer.scope };
      if (answer.prompt.trim() && answer.prompt !== card.prompt.value) details.prompt = answer.prompt;
      await svi.during("Starting…", () => svi.act("regenerate", details));
    }

    async merge(card) {
      const { number } = card.shown;
      const done = await svi.act("merge", { clip_id: card.id });
      if (done) svi.offerUndo(`Clips ${number} and ${number + 1} are one.`, done.undo_id);
    }

    // Where the caret stands in the prompt as it is saved: whitespace folded, in characters. Null at either end.
    caret({ prompt }) {
      const folded = (words) => [...words.replace(/\s+/g, " ").trimStart()].length;
      const at = folded(prompt.value.slice(0, prompt.selectionStart));
      return at > 0 && at < folded(prompt.value.trimEnd()) ? at : null;
    }

    async split(card) {
      const { number } = card.shown, at = this.caret(card);
      const done = await svi.act("split", { clip_id: card.id, ...(at === null ? {} : { at }) });
      if (done) svi.offerUndo(`Clip ${number} is split in two.`, done.undo_id);
    }

    async redraft(card) {
      const clip = card.shown, later = this.state.clips.length - clip.index - 1;
      const finished = this.state.clips.slice(clip.index).filter((one) => one.takes.length).length;
      const yes = await svi.dialog(`Redraft from clip ${clip.number}`, el("p", {},
        `Clips before it stay. The prompts of clip ${clip.number}${later ? ` and the ${later} after it` : ""} are written again.` +
        (finished ? ` ${finished} finished clip${finished === 1 ? " is" : "s are"} replaced when you generate; you can undo.` : "")),
      [{ label: "Cancel", answer: null }, { label: "Redraft", answer: true, kind: "accent" }]);
      const { number } = clip;
      if (yes) await this.story.ask("redraft_from", { clip_id: card.id }, { words: `Redrafted from clip ${number}.`, label: `Redraft from clip ${number}` });
    }

    menu(card) {
      const clip = card.shown, { view_only, clips, film } = this.state;
      const segment = film.segments.find((one) => one.clip_id === clip.id);
      const locked = clip.editable ? "" : "this clip is being rendered";
      const items = [];
      if (!view_only) {
        items.push(
          { label: "Regenerate…", off: clip.takes.length ? locked || this.state.outgrown : "not rendered yet", run: () => this.regenerate(card) },
          ...this.dial.item(clip, locked),
          { label: "Redraft from here…", off: locked || this.story.writes(), run: () => this.redraft(card) }, "line",
          { label: "Insert a clip after", run: () => this.insert(clip.id) },
          { label: "Duplicate", run: () => svi.act("duplicate", { clip_id: clip.id }) },
          { label: "Merge with the next", off: clip.index === clips.length - 1 ? "there is no next clip" : locked, run: () => this.merge(card) },
          { label: this.caret(card) === null ? "Split in two" : "Split at the cursor", off: locked, run: () => this.split(card) },
          ...(svi.setup.negative_prompts ? [{ label: "Negative prompt", note: clip.negative_prompt === null ? "as the film" : "its own", off: locked, run: () => this.openNegative(card) }] : []),
          { label: "Move up", note: "Alt + ↑", off: clip.index === 0 ? "already first" : locked, run: () => this.move(card, clip.index - 1) },
          { label: "Move down", note: "Alt + ↓", off: clip.index === clips.length - 1 ? "already last" : locked, run: () => this.move(card, clip.index + 1) }, "line");
      }
      items.push({ label: "Play from here", off: segment ? "" : "not rendered yet", run: () => { svi.parts.player?.seek(segment.start_s); svi.parts.player?.play(); } });
      items.push({ label: "Download clip", off: segment ? "" : "not rendered yet", run: () => this.download(clip, segment) });
      if (!view_only) items.push("line", { label: "Delete", note: "with undo", off: locked, run: () => this.remove(card) });
      svi.menu(card.menu, items);
    }

    // Init and fragments of one clip make a playable file by themselves.
    async download(clip, segment) {
      try {
        const parts = await Promise.all([this.state.film.init_url, segment.url].map(async (url) => {
          const reply = await svi.media(url);
          if (!reply.ok) throw new Error(`media answered ${reply.status}`);
          return reply.arrayBuffer();
        }));
        const link = el("a", { href: URL.createObjectURL(new Blob(parts, { type: "video/mp4" })), download: `clip-${String(clip.number).padStart(3, "0")}.mp4` });
        document.body.append(link);
        link.click();
        link.remove();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      } catch { svi.complain({ message: "The clip could not be downloaded.", hint: "Try again when the connection is back." }); }
    }

    // ---- selection and keys ----------------------------------------------------------------------------------------

    // One tab stop for the whole board: the active card and what is on it.
    activate(id) {
      if (!id || id === this.active) return;
      for (const [one, index] of [[this.active, -1], [id, 0]]) {
        const card = this.cards.get(one);
        if (!card) continue;
        card.node.tabIndex = index;
        card.node.toggleAttribute("data-active", index === 0);
        for (const control of card.node.querySelectorAll("button, textarea, input")) control.tabIndex = index;
      }
      this.active = id;
    }

    select(card) {
      card.node.focus({ preventScroll: true });
      svi.parts.player?.showClip(card.id);
    }

    playing(id) {
      if (this.lit === id) return;
      this.cards.get(this.lit)?.node.removeAttribute("data-playing");
      this.cards.get(id)?.node.setAttribute("data-playing", "");
      this.lit = id;
    }

    focused() {
      const card = document.activeElement?.closest?.("#storyboard [data-clip]");
      return card ? this.cards.get(card.dataset.clip) : null;
    }

    commandEnter() {
      const card = this.focused();
      if (!card || this.state.view_only || !card.shown.takes.length || !card.shown.editable) return false;
      this.regenerate(card);
      return true;
    }

    key(event) {
      const card = this.focused();
      if (!card || document.activeElement !== card.node) return false;
      const { index } = card.shown, { clips, view_only } = this.state;
      if (event.altKey) {
        if (view_only || !["ArrowUp", "ArrowDown"].includes(event.key)) return false;
        this.move(card, index + (event.key === "ArrowUp" ? -1 : 1));
        return true;
      }
      const to = { ArrowLeft: index - 1, ArrowUp: index - 1, ArrowRight: index + 1, ArrowDown: index + 1, Home: 0, End: clips.length - 1 }[event.key];
      if (to !== undefined && !event.shiftKey) {
        const next = this.cards.get(clips[Math.min(Math.max(0, to), clips.length - 1)].id);
        next.node.focus();
        next.node.scrollIntoView({ block: "nearest", behavior: svi.calm() ? "auto" : "smooth" });
        svi.parts.player?.showClip(next.id);
        return true;
      }
      if (event.key === "Enter") { card.prompt.focus(); card.prompt.setSelectionRange(card.prompt.value.length, card.prompt.value.length); return true; }
      if (event.key === "Delete" && !view_only && card.shown.editable) { this.remove(card); return true; }
      return false;
    }

    // ---- dragging (Move up and Move down do the same without a mouse) ------------------------------------------------

    dragStart(event, card) {
      this.dragged = card;
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", "");
      event.dataTransfer.setDragImage(card.node, 20, 20);
      requestAnimationFrame(() => card.node.setAttribute("data-dragged", ""));
    }

    dragOver(event) {
      if (!this.dragged) return;
      event.preventDefault();
      const over = event.target.closest("[data-clip]");
      for (const node of this.list.querySelectorAll("[data-drop]")) if (node !== over) node.removeAttribute("data-drop");
      if (!over || over === this.dragged.node) return;
      const box = over.getBoundingClientRect();
      over.dataset.drop = event.clientX < box.left + box.width / 2 ? "before" : "after";
    }

    drop(event) {
      if (!this.dragged) return;
      event.preventDefault();
      const over = event.target.closest("[data-clip]"), { dragged } = this;
      const target = over && this.cards.get(over.dataset.clip);
      if (target && target !== dragged) {
        let to = target.shown.index + (over.dataset.drop === "after" ? 1 : 0);
        if (to > dragged.shown.index) to -= 1;
        this.move(dragged, to);
      }
      this.dragEnd();
    }

    dragEnd() {
      this.dragged?.node.removeAttribute("data-dragged");
      for (const node of this.list.querySelectorAll("[data-drop]")) node.removeAttribute("data-drop");
      this.dragged = null;
    }
  }
})();
