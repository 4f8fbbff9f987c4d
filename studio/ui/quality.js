// Draft and full quality: what a card's menu offers, how far a change reaches, and the line that finishes all drafts.
// Knows states and dialogs; the storyboard owns the cards.
(() => {
  "use strict";

  const { svi } = window;
  const { el, text, show } = svi;
  const number = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  class Dial {
    constructor(root) {
      const at = (name) => root.querySelector(`[data-at=${name}]`);
      [this.line, this.words, this.button] = [at("drafts"), at("draftsText"), root.querySelector("#finish-drafts")];
      this.button.addEventListener("click", () => this.finish());
    }

    update(state) {
      show(this.line, !!state.drafts);
      if (state.drafts) text(this.words, state.drafts.text);
    }

    // Measured seconds for making these clips, each in the quality that `draft` says or that it has; null: not measured.
    seconds(clips, draft) {
      const each = svi.state.seconds_a_clip;
      const times = clips.map((clip) => each[draft ?? clip.stays_draft ? "draft" : "full"]);
      return times.includes(null) ? null : times.reduce((sum, one) => sum + one, 0);
    }

    time(...seconds) {
      return seconds.includes(null) ? "" : `, ${svi.about(seconds.reduce((sum, one) => sum + one, 0))}`;
    }

    // How far a new take reaches: everything after it is made again, or the join to the next clip may jump.
    scopes(all, one) {
      const choice = (value, title, note, checked) => el("label.choice", {},
        el("input", { type: "radio", name: "scope", value, checked }), el("span", {}, el("strong", {}, title), el("small", {}, note)));
      const soften = svi.state.project.anchored ? " The reference picture, which every clip is told, softens the jump." : "";
      return el("div.choices", { role: "radiogroup", "aria-label": "What to make again" },
        choice("this_and_after", all.title, all.note, true), choice("only_this", one.title, `the join to the next clip may jump${one.note}.${soften}`, false));
    }

    after(index, chosen = []) {
      return svi.state.clips.slice(index + 1).filter((clip) => clip.takes.length && !chosen.includes(clip.id));
    }

    item(clip, locked) {
      if (!svi.state.project.draft_steps) return [];
      const label = clip.stays_draft ? "Render in full quality" : "Back to draft";
      const note = clip.takes.length ? "" : "when you generate";
      return [{ label: label + (this.after(clip.index).length ? "…" : ""), note, off: locked, run: () => this.change([clip], !clip.stays_draft) }];
    }

    finish() {
      const ids = svi.state.drafts?.clip_ids ?? [];
      return this.change(svi.state.clips.filter((clip) => ids.includes(clip.id)), false);
    }

    async change(clips, draft) {
      const ids = clips.map((clip) => clip.id), later = clips.length ? this.after(clips[0].index, ids) : [];
      const scope = later.length ? await this.ask(clips, later, draft) : "this_and_after";
      if (!scope) return;
      const generate = clips.some((clip) => clip.takes.length);
      await svi.during("Starting…", () => svi.act("set_quality", { clip_ids: ids, draft, scope, generate }));
    }

    ask(clips, later, draft) {
      const many = clips.length > 1, what = many ? number(clips.length, "clip") : `clip ${clips[0].number}`;
      const first = svi.state.clips[clips[0].index + 1];
      const drafts = later.filter((clip) => clip.stays_draft).length, full = later.length - drafts;
      const again = [drafts && `${number(drafts, "draft")} again`, full && `${number(full, "full-quality clip")} again`].filter(Boolean).join(", ");
      const itself = `${what} ${draft ? "as a draft" : "in full quality"}`;
      const own = this.seconds(clips, draft);
      const scopes = this.scopes(
        { title: many ? "These clips and everything after" : "This clip and everything after", note: `${itself}, ${again}${this.time(own, this.seconds(later))}` },
        { title: many ? "Only these clips" : "Only this clip", note: this.time(own) });
      const reason = many ? "A clip continues the last frames of the one before it." : `Clip ${first.number} continues the last frames of clip ${clips[0].number}.`;
      return svi.dialog(itself[0].toUpperCase() + itself.slice(1),
        el("div", {}, el("p", {}, `${reason} ${number(later.length, "finished clip")} after it would no longer fit. Earlier takes are kept.`), scopes), [
          { label: "Cancel", answer: null },
          { label: draft ? "Make drafts" : "Render", kind: "accent", answer: () => scopes.querySelector("input:checked").value },
        ]);
    }
  }

  svi.Dial = Dial;
})();
