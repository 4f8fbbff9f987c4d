// One continuous film from clips that arrive one by one: fragments with continuous decode times are appended to a single
// SourceBuffer in 'segments' mode, a window around the playhead at a time. Own controls; knows nothing about cards.
(() => {
  "use strict";

  const { svi } = window;
  const { el, icon, text, show } = svi;
  const AHEAD_S = 60, BEHIND_S = 30, KEEP_S = 45, EVICT_S = 180, SEAM_LEAD_S = 2, EDGE = 0.02, TRIES = 4;

  svi.mounts.player = (element) => { svi.parts.player = new Player(element); };

  class Player {
    constructor(root) {
      this.root = root;
      const at = (name) => root.querySelector(`[data-at=${name}]`);
      this.at = Object.fromEntries(["frame", "video", "still", "cover", "coverImage", "welcome", "examples", "note", "play", "time", "total", "mute",
        "full", "track", "scrub", "legend", "corner", "recent", "recentList"].map((name) => [name, at(name)]));
      this.video = this.at.video;
      this.film = null;
      this.generation = null;
      this.wantsPlay = false;
      this.started = false;
      this.busy = false;
      this.failures = new Map();
      this.ahead = AHEAD_S;
      this.extension = null;
      this.current = null;
      this.drawn = "";
      this.at.play.append(icon("play"));
      this.at.mute.append(icon("muted"));
      this.at.full.append(icon("full"));
      this.beside = new svi.Beside(this, root);
      this.listen();
      this.recent(svi.recent());
    }

    // ---- what the studio knows -------------------------------------------------------------------------------------

    update(state) {
      this.state = state;
      const { film, project } = state;
      this.root.style.setProperty("--aspect", `${project.width} / ${project.height}`);
      const had = this.film?.segments.length ?? 0;
      const before = this.film;
      this.film = film;
      this.active = ["queued", "loading", "generating"].includes(state.phase);
      const has = film.segments.length;
      show(this.at.cover, has === 0);
      this.drawCover(state);
      if (has === 0) {
        if (this.source) this.unload();
      } else if (this.generation !== film.generation || !this.source || this.changed(before, film)) {
        this.reload(before);
      } else {
        this.settleDuration();
        this.pump();
      }
      this.drawTrack();
      if (has > had) this.grown(before, had, has);
      this.enable();
      this.note();
      this.beside.update(state);
    }

    // A segment that was handed out may only be followed, never replaced, within one generation.
    changed(before, film) {
      return !!before && before.segments.some((segment, index) => segment.digest !== film.segments[index]?.digest);
    }

    grown(before, had, has) {
      if (this.extension !== null && has > this.extension) {
        const seam = this.film.segments[this.extension].start_s;
        this.extension = null;
        if (this.video.paused || this.video.ended) {
          this.seek(Math.max(0, seam - SEAM_LEAD_S));
          if (navigator.userActivation?.hasBeenActive !== false && !svi.calm()) this.play();
          return;
        }
      }
      // The first clip plays at once, silently, if the creator has done anything on this page.
      if (had === 0 && before !== null && !this.started && navigator.userActivation?.hasBeenActive && !svi.calm()) {
        this.mute(true);
        this.play();
      } else if (this.wantsPlay && this.video.paused) this.play();
    }

    expectExtension() { this.extension = this.film?.segments.length || null; }

    // ---- the media source ------------------------------------------------------------------------------------------

    reload(before) {
      const { film } = this;
      const resume = this.position(before) ?? this.remembered();
      const playing = this.wantsPlay;
      this.freeze();
      this.unload();
      this.generation = film.generation;
      this.failures.clear();
      if (!film.mime) return;  // nothing has been made yet: the next state carries it
      if (!window.MediaSource || !MediaSource.isTypeSupported(film.mime)) {
        this.unsupported = true;
        show(this.at.note, true);
        text(this.at.note, "This browser cannot join the clips as they arrive. Export the film, then watch or download the file.");
        return;
      }
      const source = (this.source = new MediaSource());
      const target = this.timeOf(resume);
      source.addEventListener("sourceopen", async () => {
        if (this.source !== source) return;
        this.release();
        this.buffer = source.addSourceBuffer(film.mime);
        this.buffer.mode = "segments";
        this.buffer.addEventListener("error", () => console.warn("a segment could not be decoded"));
        this.settleDuration();
        if (target > 0) this.video.currentTime = target;
        if (playing) this.play();
        while (this.source === source && !this.ready) {
          try { this.ready = await this.load(film.init_url, source); }
          catch (error) { console.debug(error); await new Promise((resolve) => setTimeout(resolve, 1000)); }
        }
        this.pump();
      }, { once: true });
      this.video.src = this.url = URL.createObjectURL(source);
    }

    release() {
      if (this.url) URL.revokeObjectURL(this.url);
      this.url = null;
    }

    unload() {
      this.source = this.buffer = null;
      this.busy = this.ready = false;
      this.release();
      this.video.removeAttribute("src");
      this.video.load();
    }

    // A still of the last picture hides the black moment of a reload.
    freeze() {
      const { video, at: { still } } = this;
      if (video.readyState < 2 || !video.videoWidth) return;
      still.width = video.videoWidth;
      still.height = video.videoHeight;
      still.getContext("2d").drawImage(video, 0, 0);
      show(still, true);
    }

    // Clip and offset under the playhead: what a new generation resumes at.
    position(film = this.film) {
      const segment = this.at && film ? this.segmentAt(this.video.currentTime, film) : null;
      if (!segment || !this.started) return null;
      return { clip_id: segment.clip_id, offset: this.video.currentTime - segment.start_s };
    }

    timeOf(position) {
      const segment = position && this.film.segments.find((one) => one.clip_id === position.clip_id);
      return segment ? segment.start_s + Math.min(position.offset, segment.duration_s - EDGE) : 0;
    }

    remembered() {
      try {
        const position = JSON.parse(sessionStorage.getItem(`svi:position:${this.state.project.id}`));
        if (position) this.started = true;
        return position;
      } catch { return null; }
    }

    remember() {
      const position = this.position();
      if (position) try { sessionStorage.setItem(`svi:position:${this.state.project.id}`, JSON.stringify(position)); } catch { /* full */ }
    }

    settled() {
      return new Promise((resolve) => {
        if (!this.buffer?.updating) resolve(); else this.buffer.addEventListener("updateend", resolve, { once: true });
      });
    }

    // While clips are on their way the source stays longer than its content, so that the film waits instead of ending;
    // otherwise it ends with its last segment.
    settleDuration() {
      const { source, buffer, film } = this;
      if (source?.readyState === "closed" || !buffer || buffer.updating) return;
      const buffered = buffer.buffered.length ? buffer.buffered.end(buffer.buffered.length - 1) : 0;
      const wanted = Math.max(this.active ? Math.max(film.planned_s, film.duration_s + 1) : film.duration_s, buffered);
      if (Math.abs(source.duration - wanted) > 0.001 || Number.isNaN(source.duration)) {
        try { if (source.readyState === "open") source.duration = wanted; } catch (error) { console.debug(error); }
      }
      const last = film.segments.at(-1);
      if (!this.active && source.readyState === "open" && last && this.has(last)) source.endOfStream();
    }

    async load(url, source) {
      const reply = await svi.media(url);
      if (!reply.ok) throw new Error(`media answered ${reply.status}`);
      const data = await reply.arrayBuffer();
      await this.settled();
      if (this.source !== source || source.readyState === "closed") return false;
      this.buffer.appendBuffer(data);
      await this.settled();
      return true;
    }

    unreadable(segment) { return (this.failures.get(segment.digest) ?? 0) >= TRIES; }

    has(segment) {
      const ranges = this.buffer.buffered, from = segment.start_s + EDGE, to = segment.start_s + segment.duration_s - EDGE;
      for (let index = 0; index < ranges.length; index += 1) if (ranges.start(index) <= from && ranges.end(index) >= to) return true;
      return false;
    }

    // Brings the buffer one segment closer to a window around the playhead; called again until nothing is missing.
    async pump() {
      if (this.busy || !this.ready || !this.buffer || !this.film) return;
      const now = this.video.currentTime, { source } = this;
      const missing = this.film.segments.find((segment) =>
        segment.start_s + segment.duration_s > now - (this.started ? 0 : BEHIND_S) && segment.start_s < now + this.ahead &&
        !this.has(segment) && !this.unreadable(segment));
      this.busy = true;
      try {
        if (!missing) { this.settleDuration(); await this.evict(now); return; }
        try {
          await this.load(missing.url, source);
          if (this.source === source && this.buffer && !this.has(missing)) throw new Error(`segment ${missing.digest.slice(0, 8)} left a hole`);
        } catch (error) {
          console.debug(error);
          if (error.name === "QuotaExceededError") {  // less room than hoped: give some back and look less far ahead
            this.ahead = Math.max(5, this.ahead / 2);
            await this.evict(this.video.currentTime, true);
            setTimeout(() => this.pump(), 500);
            return;
          }
          if (svi.online) this.failures.set(missing.digest, (this.failures.get(missing.digest) ?? 0) + 1);
          this.note();
          setTimeout(() => this.pump(), 1000);
          return;
        }
        this.settleDuration();
      } finally { if (this.source === source) this.busy = false; }
      if (this.source === source) this.pump();
    }

    // Hour-long films: only what is near the playhead stays in memory.
    async evict(now, hard = false) {
      const { buffer } = this, ranges = buffer.buffered;
      if (!ranges.length) return;
      const total = [...Array(ranges.length).keys()].reduce((sum, index) => sum + ranges.end(index) - ranges.start(index), 0);
      if (!hard && total < EVICT_S) return;
      const behind = now - (hard ? 5 : KEEP_S), ahead = now + this.ahead + (hard ? 0 : KEEP_S), start = ranges.start(0), end = ranges.end(ranges.length - 1);
      if (behind > start) { buffer.remove(start, behind); await this.settled(); }
      if (this.buffer === buffer && end > ahead) { buffer.remove(ahead, end); await this.settled(); }
    }

    // ---- playing ---------------------------------------------------------------------------------------------------

    play() {
      if (!this.film?.segments.length || !this.source) return;
      this.wantsPlay = true;
      this.started = true;
      if (!this.active && this.video.currentTime >= this.film.duration_s - 0.05) this.video.currentTime = 0;
      this.video.play().catch((error) => {
        if (error.name === "NotAllowedError" && !this.video.muted) { this.mute(true); this.video.play().catch(() => {}); }
      });
      this.tick();
    }
    pause() { this.wantsPlay = false; this.video.pause(); }
    toggle() { if (this.wantsPlay && !this.video.ended) this.pause(); else this.play(); }
    mute(muted) {
      this.video.muted = muted;
      this.at.mute.replaceChildren(icon(muted ? "muted" : "sound"));
      this.at.mute.setAttribute("aria-label", muted ? "Unmute" : "Mute");
      this.at.mute.setAttribute("aria-pressed", String(muted));
    }
    seek(seconds) {
      if (!this.film?.segments.length) return;
      this.started = true;
      const last = Math.max(0, this.film.duration_s - 0.5 / this.state.project.fps);
      this.video.currentTime = Math.min(Math.max(0, seconds), last);
      this.drawTime();
    }
    frame(by) {
      const { fps } = this.state.project;
      this.pause();
      this.seek((Math.floor(this.video.currentTime * fps + 0.01) + by) / fps + 0.001);
    }
    clip(by) {
      const { segments } = this.film ?? { segments: [] };
      if (!segments.length) return;
      const now = segments.indexOf(this.segmentAt(this.video.currentTime));
      const back = by < 0 && this.video.currentTime - segments[now].start_s > 1 ? 0 : by;
      this.seek(segments[Math.min(Math.max(0, now + back), segments.length - 1)].start_s + 0.001);
    }
    showClip(clipId) {
      const segment = this.film?.segments.find((one) => one.clip_id === clipId);
      if (segment && this.segmentAt(this.video.currentTime) !== segment) this.seek(segment.start_s + 0.001);
    }
    segmentAt(seconds, film = this.film) {
      const { segments } = film;
      let low = 0, high = segments.length - 1;
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (segments[middle].start_s <= seconds + 0.0005) low = middle; else high = middle - 1;
      }
      return segments[low] ?? null;
    }
    async fullscreen() {
      if (document.fullscreenElement) return document.exitFullscreen();
      if (this.at.frame.requestFullscreen) return this.at.frame.parentElement.requestFullscreen().catch(() => {});
      this.video.webkitEnterFullscreen?.();
    }

    key(event) {
      if (!this.film?.segments.length || event.altKey) return false;
      const does = {
        " ": () => this.toggle(), k: () => this.toggle(), j: () => this.seek(this.video.currentTime - 5), l: () => this.seek(this.video.currentTime + 5),
        ArrowLeft: () => (event.shiftKey ? this.seek(this.video.currentTime - 1) : this.frame(-1)),
        ArrowRight: () => (event.shiftKey ? this.seek(this.video.currentTime + 1) : this.frame(1)),
        ArrowUp: () => this.clip(-1), ArrowDown: () => this.clip(1), Home: () => this.seek(0), End: () => this.seek(Infinity),
        m: () => this.mute(!this.video.muted), f: () => this.fullscreen(),
      }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      does?.();
      return !!does;
    }

    listen() {
      const { video, at } = this;
      this.mute(true);
      at.play.addEventListener("click", () => this.toggle());
      at.frame.addEventListener("click", (event) => { if (event.target === video || event.target === at.still) this.toggle(); });
      at.mute.addEventListener("click", () => this.mute(!video.muted));
      at.full.addEventListener("click", () => this.fullscreen());
      at.scrub.addEventListener("input", () => this.seek(Number(at.scrub.value)));
      at.scrub.addEventListener("keydown", (event) => {
        if (["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key) && this.key(event)) {
          event.preventDefault();
          event.stopPropagation();
        }
      });
      for (const name of ["play", "playing", "pause", "ended", "waiting"]) video.addEventListener(name, () => { this.drawPlay(); this.note(); this.beside.follow(); });
      video.addEventListener("playing", () => { this.restarts = 0; });
      video.addEventListener("seeking", () => this.pump());
      for (const name of ["seeked", "loadeddata", "playing"]) video.addEventListener(name, () => { if (video.readyState >= 2) show(at.still, false); });
      video.addEventListener("timeupdate", () => { this.drawTime(); this.pump(); });
      video.addEventListener("pause", () => this.remember());
      video.addEventListener("ended", () => { if (!this.active) this.wantsPlay = false; this.drawPlay(); });
      video.addEventListener("error", () => {
        if (!video.getAttribute("src") || !this.film?.segments.length) return;
        console.warn("the player starts again:", video.error?.message);
        if ((this.restarts = (this.restarts ?? 0) + 1) <= 3) this.reload(this.film);
      });
      this.float();
      setInterval(() => { if (!video.paused) this.remember(); }, 1000);
      window.addEventListener("pagehide", () => this.remember());
    }

    // While the storyboard is scrolled through, the picture stays in sight in a corner, until it is closed.
    float() {
      const { frame, corner } = this.at;
      corner.append(icon("close"));
      corner.addEventListener("click", (event) => { event.stopPropagation(); this.closed = true; delete this.root.dataset.corner; });
      new IntersectionObserver(([seen]) => {
        const gone = !seen.isIntersecting && seen.boundingClientRect.bottom < 0 && !!this.film?.segments.length && !this.closed;
        if (gone === ("corner" in this.root.dataset)) return;
        if (gone) { frame.parentElement.style.minHeight = `${frame.parentElement.offsetHeight}px`; this.root.dataset.corner = ""; }
        else { frame.parentElement.style.minHeight = ""; delete this.root.dataset.corner; }
      }).observe(frame.parentElement);
    }

    // ---- drawing ---------------------------------------------------------------------------------------------------

    picture(url) {
      this.anchor = url;
      if (!this.state) this.drawCover(null);
    }

    drawCover(state) {
      const url = state ? svi.signed(state.project.image_url) : this.anchor;
      show(this.at.coverImage, !!url);
      if (url && this.at.coverImage.getAttribute("src") !== url) this.at.coverImage.src = url;
      show(this.at.welcome, !state && !url && !svi.id);
    }

    examples(examples) {
      show(this.at.examples, examples.length > 0);
      const list = this.at.examples.querySelector("[data-at=exampleList]");
      list.replaceChildren(...examples.map((example) => el("button.example", { type: "button", onclick: () => svi.example(example.name) },
        example.poster_url ? el("img", { src: svi.signed(example.poster_url), alt: "", loading: "lazy" }) : null, el("span", {}, example.title))));
    }

    recent(films) {
      show(this.at.recent, films.length > 0);
      this.at.recentList.replaceChildren(...films.map(({ id, title }) => el("li", {}, el("a", { href: `?project=${id}` }, title))));
    }

    enable() {
      const ready = !!this.film?.segments.length && !this.unsupported;
      for (const name of ["play", "mute", "full", "scrub"]) this.at[name].disabled = !ready;
    }

    drawPlay() {
      const playing = this.wantsPlay && !this.video.ended;
      if (this.at.play.dataset.playing === String(playing)) return;
      this.at.play.dataset.playing = String(playing);
      this.at.play.replaceChildren(icon(playing ? "pause" : "play"));
      this.at.play.setAttribute("aria-label", playing ? "Pause the film" : "Play the film");
    }

    // What the film waits for, when the playhead has caught up with the rendering.
    note() {
      if (this.unsupported || !this.film) return;
      const { state, film, video } = this;
      const caughtUp = this.wantsPlay && this.active && film.segments.length > 0 && video.currentTime > film.duration_s - 0.3 && video.readyState < 3;
      const running = state.clips.find((clip) => clip.status === "running");
      const words = caughtUp
        ? running ? `Waiting for clip ${running.number}${running.of ? ` · step ${running.step} of ${running.of}` : ""}` : "Waiting for the next clip" : this.broken();
      text(this.at.note, words);
      show(this.at.note, !!words);
    }

    // The clip that could not be read, if the playhead is at it or stuck just before it.
    broken() {
      const now = this.video.currentTime;
      const segment = this.film.segments.find((one) => this.unreadable(one) && one.start_s - 0.3 <= now && now < one.start_s + one.duration_s);
      const clip = segment && this.state.clips.find((one) => one.id === segment.clip_id);
      if (!clip) return "";
      return `Clip ${clip.number} could not be read. ${this.state.view_only ? "Seek past it to go on." : "Regenerate it."}`;
    }

    tick() {
      if (this.ticking) return;
      this.ticking = true;
      const step = () => {
        this.drawTime();
        if (this.video.paused) { this.ticking = false; return; }
        requestAnimationFrame(step);
      };
      requestAnimationFrame(step);
    }

    drawTime() {
      const { film, at, video } = this;
      if (!film) return;
      const now = film.segments.length ? video.currentTime : 0;
      text(at.time, svi.clock(now));
      at.track.style.setProperty("--played", `${(100 * now) / Math.max(film.planned_s, 0.001)}%`);
      if (document.activeElement !== at.scrub || Math.abs(at.scrub.value - now) > 0.001) at.scrub.value = now;
      const segment = film.segments.length ? this.segmentAt(now) : null;
      const clipId = segment?.clip_id ?? null;
      if (clipId !== this.current) {
        this.current = clipId;
        svi.parts.storyboard?.playing(clipId);
        this.sayValue();
        if (this.failures.size) this.note();
      } else if (!this.video.paused) { /* screen readers hear the clip, not every frame */ } else this.sayValue();
      this.beside.follow();
    }

    sayValue() {
      const clip = this.state?.clips.find((one) => one.id === this.current);
      const words = clip ? `${svi.spoken(Math.round(this.video.currentTime * 10) / 10)}, clip ${clip.number} of ${this.state.clips.length}` : "nothing rendered";
      if (this.at.scrub.getAttribute("aria-valuetext") !== words) this.at.scrub.setAttribute("aria-valuetext", words);
    }

    drawTrack() {
      const { state, film, at } = this;
      const planned = Math.max(film.planned_s, film.duration_s, 0.001);
      const drawn = JSON.stringify([planned, state.clips.map((clip) => [clip.id, clip.status, clip.start_s, clip.end_s, clip.step])]);
      if (drawn !== this.drawn) {
        this.drawn = drawn;
        at.scrub.max = planned;
        at.scrub.step = 1 / (state.project.fps * 4);
        const parts = state.clips.map((clip) => {
          const kind = { done: "done", stale: "stale", running: "running", failed: "failed" }[clip.status] ?? "planned";
          const part = el("i.part", { title: `Clip ${clip.number}` });
          part.dataset.kind = kind;
          part.style.left = `${(100 * clip.start_s) / planned}%`;
          part.style.width = `${(100 * (clip.end_s - clip.start_s)) / planned}%`;
          if (kind === "running" && clip.of) part.style.setProperty("--done", `${(100 * clip.step) / clip.of}%`);
          return part;
        });
        at.track.querySelector("[data-at=parts]").replaceChildren(...parts);
        at.track.classList.toggle("crowded", state.clips.length > 80);
      }
      text(at.total, state.clips.length ? `/ ${svi.clock(film.duration_s)}` : "");
      const count = (...names) => state.clips.filter((clip) => names.includes(clip.status)).length;
      const done = count("done", "stale"), stale = count("stale"), running = state.clips.find((clip) => clip.status === "running");
      const left = state.clips.length - done - (running ? 1 : 0);
      text(at.legend, state.clips.length === 0 ? "" : [
        `${done} of ${state.clips.length} clips rendered`, stale ? `${stale} from older takes` : "",
        running ? `clip ${running.number} rendering` : "", left ? `${left} planned` : "",
        `${svi.clock(film.planned_s)} in all`,
      ].filter(Boolean).join(" · "));
      this.drawTime();
    }
  }
})();
