// The same film by another model: the dialog that makes the copy, and the film that it came from beside it in the player,
// clip by clip in step. Knows states and addresses; the player owns the playhead.
(() => {
  "use strict";

  const { svi } = window;
  const { el, text, show } = svi;
  const AHEAD_S = 30, BEHIND_S = 10, TOGETHER_S = 0.15, STILL_S = 0.02, RATES = [0.0625, 16];

  svi.makeCopy = (preset) => svi.during("Copying…", async () => {
    const answer = await svi.act("remake", { owner: svi.owner(), preset });
    if (answer?.project_id) svi.open(answer.project_id, answer.token);
  });

  // Which presets there are and what is missing is looked at when somebody asks, not with every poll.
  svi.renderWith = async () => {
    const { project, outgrown } = svi.state;
    const found = await svi.get("/remakes").catch(() => null);
    if (!found) return svi.complain({ message: "The studio did not say which models it has.", hint: "Try again when the connection is back." });
    const offers = found.presets.filter((offer) => offer.name !== project.preset || outgrown).sort((a, b) => !!a.missing - !!b.missing);
    const first = offers.find((offer) => !offer.missing);
    const choices = el("div.choices", { role: "radiogroup", "aria-label": "Model" }, ...offers.map((offer) => el("label.choice", {},
      el("input", { type: "radio", name: "preset", value: offer.name, disabled: !!offer.missing, checked: offer === first }),
      el("span", {}, el("strong", {}, offer.title), el("small", {}, [offer.missing || offer.about, offer.missing ? "" : offer.note].filter(Boolean).join(" "))))));
    const words = first
      ? "Makes a copy with the same storyline, seeds and picture, to be rendered by another model. This film stays as it is."
      : "No other model can render this film here yet.";
    const preset = await svi.dialog("Render with…", el("div", {}, el("p", {}, words), choices), first
      ? [{ label: "Cancel", answer: null }, { label: "Make the copy", kind: "accent", answer: () => choices.querySelector("input:checked")?.value }]
      : [{ label: "Close", answer: null, kind: "accent" }]);
    if (preset) await svi.makeCopy(preset);
  };

  // The film that a remake came from, in a second picture. Clips of the two may differ in length: each place in a clip of
  // one is shown beside the same share of that clip in the other.
  svi.Beside = class {
    constructor(player, root) {
      const at = (name) => root.querySelector(`[data-at=${name}]`);
      Object.assign(this, { player, frame: at("frame"), video: at("beside"), name: at("besideName"), button: at("both"), source: null });
      this.button.append(svi.icon("both"));
      this.button.addEventListener("click", () => (this.source ? this.close() : this.show()));
      this.video.addEventListener("seeking", () => this.pump());
      this.video.addEventListener("timeupdate", () => this.pump());
    }

    update({ origin, film, view_only }) {
      const offered = !!origin && !view_only && film.segments.length > 0;
      show(this.button, offered);
      if (this.source && (!offered || origin.id !== this.id)) this.close();
      this.origin = origin;
      text(this.name, origin ? origin.model : "");
      this.button.setAttribute("aria-label", `Show the film by ${origin?.model ?? "the first model"} beside this one`);
    }

    async show() {
      const { id, token } = this.origin;
      const reply = await svi.stateOf(id, token).catch(() => null);
      if (!reply?.film.segments.length || !reply.film.mime) {
        return svi.complain({ message: "The film that this one was made from has no clips to show.", hint: "Render it first, or open it from your films." });
      }
      this.id = id;
      this.film = reply.film;
      this.loaded = new Set();
      const source = (this.source = new MediaSource());
      source.addEventListener("sourceopen", async () => {
        URL.revokeObjectURL(this.video.src);
        this.buffer = source.addSourceBuffer(this.film.mime);
        source.duration = this.film.duration_s;
        await this.append(this.film.init_url, source);
        this.ready = this.source === source;
        this.follow();
        this.pump();
      }, { once: true });
      this.video.src = URL.createObjectURL(source);
      this.shown(true);
    }

    close() {
      this.source = this.buffer = this.film = null;
      this.ready = this.busy = false;
      this.video.removeAttribute("src");
      this.video.load();
      this.shown(false);
    }

    shown(on) {
      show(this.video, on);
      show(this.name, on);
      this.frame.toggleAttribute("data-beside", on);
      this.button.setAttribute("aria-pressed", String(on));
    }

    async append(url, source) {
      const reply = await fetch(svi.signed(url));  // each address carries its own film's token
      if (!reply.ok) throw new Error(`media answered ${reply.status}`);
      const data = await reply.arrayBuffer();
      if (this.source !== source) return;
      this.buffer.appendBuffer(data);
      await this.settled();
    }

    settled() {
      const { buffer } = this;
      return new Promise((resolve) => { if (buffer?.updating) buffer.addEventListener("updateend", resolve, { once: true }); else resolve(); });
    }

    async pump() {
      const { source } = this;
      if (this.busy || !this.ready) return;
      this.busy = true;
      try {
        for (;;) {
          const now = this.video.currentTime;
          const wanted = this.film.segments.filter((one) => one.start_s + one.duration_s > now - 1 && one.start_s < now + AHEAD_S);
          const missing = wanted.find((one) => !this.loaded.has(one));
          if (!missing) break;
          const old = [...this.loaded].filter((one) => one.start_s + one.duration_s < now - BEHIND_S || one.start_s > now + 2 * AHEAD_S);
          for (const one of old) {
            this.buffer.remove(one.start_s, one.start_s + one.duration_s);
            await this.settled();
            if (this.source !== source) return;
            this.loaded.delete(one);
          }
          await this.append(missing.url, source);
          if (this.source !== source) return;
          this.loaded.add(missing);
        }
      } catch (error) {
        console.debug(error);
        setTimeout(() => this.pump(), 1000);
      } finally { if (this.source === source) this.busy = false; }
    }

    // Called whenever the playhead of the player moves.
    follow() {
      const { player, video, film } = this, main = player.video;
      if (!this.ready || !player.film?.segments.length) return;
      const here = player.segmentAt(main.currentTime), there = film.segments.find((one) => one.clip_id === here.clip_id);
      video.style.visibility = there ? "" : "hidden";
      if (!there) { video.pause(); return; }
      const ratio = there.duration_s / here.duration_s;
      const wanted = there.start_s + Math.min(Math.max(0, main.currentTime - here.start_s) * ratio, there.duration_s - STILL_S);
      const moving = !main.paused && !main.ended && main.readyState >= 3;
      if (!video.seeking && Math.abs(video.currentTime - wanted) > (moving ? TOGETHER_S : STILL_S)) video.currentTime = wanted;
      if (!moving) { if (!video.paused) video.pause(); return; }
      video.playbackRate = Math.min(Math.max(main.playbackRate * ratio, RATES[0]), RATES[1]);
      if (video.paused) video.play().catch(() => {});
    }
  };
})();
