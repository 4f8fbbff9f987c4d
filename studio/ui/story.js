// The storyline: who writes it and how it is told, the card being written, what to do when a drafter fails, and a
// storyline's way in and out as a file. Knows the `story` of the state and of the setup; the storyboard owns the cards.
(() => {
  "use strict";

  const { svi } = window;
  const { el, icon, text, show } = svi;
  const TELLING = ["tone", "pace", "language"], UNTOLD = { tone: "as the picture", pace: "steady", language: "en" };
  const MAX_FILE_BYTES = 900_000;  // more than the largest storyline there can be, less than a request may hold
  const FORMATS = [["txt", "Text", "one prompt a line"], ["md", "Markdown", "to read and print"], ["json", "JSON", "everything, to open here again"], ["py", "prompt.txt", "for the paper’s own scripts"]];
  const capital = (words) => words && words[0].toUpperCase() + words.slice(1);
  const cards = (count) => `${count} card${count === 1 ? "" : "s"}`;

  // ---- in the setup: how it is told, and by whom -------------------------------------------------------------------

  svi.mounts.telling = (element) => { svi.parts.telling = new Telling(element); svi.parts.telling.draw(); };

  class Telling {
    constructor(root) {
      for (const node of root.querySelectorAll("[data-at]")) this[node.dataset.at] = node;
      for (const name of TELLING) this[name].addEventListener("change", () => this.changed(name));
    }

    draw() {
      const offered = svi.setup.story, story = svi.state?.story ?? offered;
      if (!offered) return;
      this.fill(offered);
      const told = { ...UNTOLD, ...svi.form.telling, ...svi.state?.story.telling, ...svi.waiting("set_settings") };
      for (const name of TELLING) {
        const field = this[name], { enabled, why_not } = story.fields[name];
        if (document.activeElement !== field && field.value !== told[name]) field.value = told[name];
        field.disabled = !enabled || !!svi.state?.view_only;
        field.title = enabled ? "" : why_not;
        field.setAttribute("aria-describedby", "telling-note");
      }
      const language = offered.languages.find(({ code }) => code === told.language);
      const beside = told.language === "en" || !story.fields.language.enabled ? "" : `Each card is told in ${language?.name ?? told.language}. The English prompt under it is what the film model reads.`;
      const reasons = TELLING.map((name) => story.fields[name]).filter(({ enabled }) => !enabled).map(({ why_not }) => why_not);
      text(this.note, [...new Set(reasons), beside].filter(Boolean).join(" "));
      this.who(story);
    }

    fill({ tones, paces, languages }) {
      if (this.tone.options.length) return;
      this.tone.append(...tones.map((tone) => el("option", { value: tone }, capital(tone))));
      this.pace.append(...paces.map((pace) => el("option", { value: pace }, capital(pace))));
      this.language.append(...languages.map(({ code, name }) => el("option", { value: code, lang: code }, name)));
    }

    who({ drafter, others = [] }) {
      const key = JSON.stringify([drafter, others]);
      if (key === this.key) return;
      this.key = key;
      const { source, title, why } = drafter, says = why.startsWith(title);  // the reason may name them itself
      this.drafter.replaceChildren(
        el("strong", {}, says ? title : `Storyline by ${source === "template" ? "templates" : title}.`), says ? why.slice(title.length) : ` ${why}`);
      show(this.more, !!drafter.hint || others.length > 0);
      this.moreText.replaceChildren(
        ...(drafter.hint ? [el("p", {}, drafter.hint)] : []),
        ...others.map(({ title, why }) => el("p", {}, "Also here: ", el("strong", {}, title), `. ${why}`)));
    }

    changed(name) {
      svi.form.telling = { ...svi.form.telling, [name]: this[name].value };
      if (svi.state) svi.edit("set_settings", { [name]: this[name].value }, { soon: true });
      this.draw();
    }

    // What was chosen before there was a project.
    chosen() {
      if (!svi.setup.story || !svi.form.telling) return undefined;
      const chosen = Object.entries(svi.form.telling).filter(([name]) => svi.setup.story.fields[name].enabled);
      return chosen.length ? Object.fromEntries(chosen) : undefined;
    }
  }

  // Ids of the cards that are still to be written anew, the next one first.
  const rewritten = ({ awaited }, clips) => { const ids = new Set(clips.map(({ id }) => id)); return awaited.filter((id) => ids.has(id)); };

  // ---- on the storyboard -------------------------------------------------------------------------------------------

  class Story {
    constructor(root, list) {
      const at = (name) => root.querySelector(`[data-at=${name}]`);
      this.list = list;
      [this.tools, this.idea, this.files, this.beat] = [at("storyTools"), at("anotherIdea"), at("storyFiles"), at("nextBeat")];
      [this.problem, this.file] = [at("storyProblem"), at("storyFile")];
      this.files.append(icon("down"));
      this.idea.addEventListener("click", () => this.anotherIdea());
      this.files.addEventListener("click", () => this.menu());
      this.beat.addEventListener("click", () => this.nextBeat());
      this.file.addEventListener("change", () => this.import(this.file.files[0]));
      this.writing = this.placeholder();
    }

    update(state) {
      const { story, clips, view_only } = state, { drafting } = story;
      this.state = state;
      show(this.tools, !view_only);
      show(this.idea, clips.length > 0);
      this.off(this.idea, this.why());
      this.off(this.beat, this.why() || (clips.at(-1)?.status === "done" ? "" : "The last clip is not rendered yet: there is no frame to go on from."));
      this.drawWriting(drafting, clips);
      this.drawProblem(story.problem);
      this.noticed(state.undo);
      if (this.drafting && !drafting) this.ended();
      this.drafting = drafting;
    }

    // Why no storyline can be asked for at this moment, or "".
    why() {
      const { phase, story } = this.state;
      if (story.drafting) return "A storyline is being written.";
      return ["queued", "loading", "generating"].includes(phase) ? "The film is being made. Pause first." : "";
    }

    off(button, reason) {
      button.setAttribute("aria-disabled", String(!!reason));
      button.title = reason;
    }

    // ---- the card being written ------------------------------------------------------------------------------------

    placeholder() {
      const number = el("span.number", {}), status = el("span.status", {});
      const node = el("li.card.writing", {},
        el("div.shot", { "aria-hidden": "true" }, el("span.blank", {})),
        el("div.card-head", {}, number, status),
        el("div.lines", { "aria-hidden": "true" }, el("i"), el("i"), el("i")));
      return { node, number, status, blank: node.querySelector(".blank") };
    }

    // It stands where the next card will be, as tall as a card, so that a card that arrives moves nothing before it.
    drawWriting(drafting, clips) {
      const { node } = this.writing, left = drafting ? drafting.fresh : 0, number = clips.length + 1;
      if (left <= 0 || rewritten(drafting, clips).length) node.remove();
      else {
        text(this.writing.number, String(number));
        text(this.writing.status, this.doing(drafting));
        text(this.writing.blank, `card ${number} of ${clips.length + left}`);
        if (this.list.lastElementChild !== node) this.list.append(node);
      }
    }

    // What stands on a card whose prompt is about to be written anew, or "".
    awaited({ story: { drafting }, clips }, id) {
      const place = drafting ? rewritten(drafting, clips).indexOf(id) : -1;
      return place < 0 ? "" : place === 0 ? this.doing(drafting) : "To be rewritten";
    }

    // A word for the card; the message beside the buttons says what is waited for.
    doing({ state }) {
      return { waiting: "Waiting…", loading: "Loading…", writing: "Writing…", stopping: "Stopping…" }[state];
    }

    // ---- a drafter that failed -------------------------------------------------------------------------------------

    drawProblem(problem) {
      const key = JSON.stringify(problem);
      show(this.problem, !!problem && !this.state.view_only);
      if (key === this.problemKey) return;
      this.problemKey = key;
      this.problem.replaceChildren();
      if (!problem) return;
      const kept = problem.kept ? `${problem.kept} of ${cards(problem.of)} ${problem.kept === 1 ? "is" : "are"} written and kept.` : "No card was written yet.";
      this.problem.append(
        el("p", {}, el("strong", {}, problem.message), ...(problem.hint ? [" ", problem.hint] : [])),
        el("p", {}, kept, ...(problem.id ? [" ", el("span.code", {}, `Error ${problem.id}`)] : [])),
        el("div.story-choices", {}, ...problem.choices.map(({ label, source }) => el("button.plain.small", { type: "button", onclick: () => this.again(source) }, label))),
        el("button.quiet.dismiss", { type: "button", "aria-label": "Dismiss", onclick: () => this.dismiss() }, icon("close")));
    }

    async dismiss() {
      if (await svi.act("stop_draft")) this.list.querySelector("[data-active]")?.focus({ preventScroll: true });
    }

    async again(source) {
      const done = await svi.during("Drafting…", async () => {
        const answer = await svi.act("draft_again", { source });
        await svi.caughtUp(answer?.rev);
        return answer;
      });
      if (done) svi.elements.primary?.focus({ preventScroll: true });  // the button that was pressed is gone
    }

    // ---- asking for a storyline ------------------------------------------------------------------------------------

    ask(action, details, replaced) {
      return svi.during("Drafting…", async () => {
        this.expect(replaced);
        await this.asked(await svi.act(action, details));
      });
    }

    // What to say, with an undo, once the storyline that is asked for next has ended; `label` is its edit's. A draft
    // that was stopped before its first card is no edit: nothing is said, and there is nothing to take back.
    expect(replaced) { this.replaced = replaced && { ...replaced, before: svi.state?.undo?.id, id: "" }; }

    noticed(undo) {
      const { replaced } = this;
      if (replaced && undo?.label === replaced.label && undo.id !== replaced.before) replaced.id = undo.id;
    }

    async asked(answer) {
      if (!answer) { this.replaced = null; return; }
      await svi.caughtUp(answer.rev);
      if (!this.drafting) this.ended();
    }

    ended() {
      const { replaced } = this;
      this.replaced = null;
      if (replaced?.id && !this.state.story.problem) svi.offerUndo(replaced.words, replaced.id);
    }

    // Why no other storyline can be asked for right now, or "".
    writes() { return this.drafting ? "a storyline is being written" : ""; }

    anotherIdea() {
      const reason = this.why();
      if (reason) return svi.say(reason);
      return this.ask("another_idea", {}, { words: "Another idea replaced the storyline.", label: "Another idea" });
    }

    nextBeat() {
      if (this.beat.title) return svi.say(this.beat.title);
      return this.ask("next_beat", {}, null);
    }

    // ---- files -----------------------------------------------------------------------------------------------------

    menu() {
      const { exports } = this.state.story;
      const importing = { label: "Import a storyline…", note: "txt, json, py or md", off: this.why(), run: () => this.file.click() };
      const links = FORMATS.filter(([format]) => exports[format]).map(([format, label, note]) => ({ label: `Export as ${label}`, note, href: svi.signed(exports[format]) }));
      svi.menu(this.files, links.length ? [importing, "line", ...links] : [importing]);
    }

    async import(file) {
      if (!file) return;
      const { name, size } = file;
      this.file.value = "";  // the same file may be chosen again
      if (size > MAX_FILE_BYTES) {
        svi.complain({ message: `${name} is larger than a storyline can be.`, hint: "A storyline is a text file of a few kilobytes." });
        return;
      }
      const count = this.state.clips.length;
      const done = await svi.during("Importing…", async () => svi.act("import_storyline", { name, text: await file.text() }));
      if (done) svi.offerUndo(count ? `The storyline of the file replaced ${cards(count)}.` : "The storyline was imported.", done.undo_id);
    }
  }

  svi.Story = Story;
})();
