// Pictures found by keyword, where the operator turned that on: a search, a grid to choose from, and the credit that a
// found picture keeps. The studio fetches; nothing here loads from another host.
(() => {
  "use strict";

  const { svi } = window;
  const { el, text, show } = svi;
  const TIMEOUT_MS = 30_000;
  const ROOT = () => `${document.baseURI.replace(/[?#].*$/, "").replace(/\/$/, "")}/gradio_api/studio/`;
  const trouble = { message: "The search did not answer.", hint: "Try again, or upload a picture of yours." };

  // A link that opens only when it is clicked; anything but https stays text.
  const linked = (words, address) => (/^https:\/\//.test(address ?? "")
    ? el("a", { href: address, target: "_blank", rel: "noopener noreferrer", dir: "auto" }, words) : el("bdi", {}, words));

  // “A dog asleep” by Ann Example, CC BY 4.0, Openverse: as nodes.
  svi.credit = ({ title, author, licence, licence_url, page_url, source }) => [
    ...(title ? ["“", linked(title, page_url), "”"] : [linked("Picture", page_url)]), ...(author ? [" by ", el("bdi", {}, author)] : []),
    ", ", linked(licence, licence_url), ...(source ? [", ", el("bdi", {}, source)] : []),
  ];

  svi.mounts.pictures = (element) => { svi.parts.pictures = new Pictures(element); };

  class Pictures {
    constructor(root) {
      for (const node of root.querySelectorAll("[data-at]")) this[node.dataset.at] = node;
      this.search.addEventListener("submit", (event) => { event.preventDefault(); this.find(); });
      this.finder.addEventListener("toggle", () => this.opened());
      this.foundDrop.addEventListener("click", () => { this.choose(null); document.querySelector("#anchor-image button, #anchor-image input")?.focus(); });
    }

    draw() {
      const { found } = svi.form;
      document.body.classList.toggle("svi-found", !!found);
      show(this.found, !!found && !svi.id);
      show(this.finder, !svi.id);
      const { sources } = svi.setup.pictures ?? {};
      if (sources && !this.asked) text(this.finderNote, `Your words are looked up in: ${sources.join(", ")}.`);
      const source = found ? this.thumbnail(found) : "";
      if (source && this.foundImage.getAttribute("src") !== source) this.foundImage.src = source;
      if (found && this.shown !== found.id) { this.foundImage.alt = this.words(found); this.foundCredit.replaceChildren(...svi.credit(found)); }
      this.shown = found?.id;
    }

    // The keywords are a good first guess at what to look for.
    opened() {
      if (this.finder.open && !this.wanted.value) this.wanted.value = svi.form.keywords ?? "";
    }

    async find() {
      const keywords = this.wanted.value.trim();
      if (!keywords) return text(this.finderNote, "Write what the picture should show, a word or two.");
      text(this.finderNote, "Searching…");
      const asked = (this.asked = {});
      const answer = await this.ask(keywords);
      if (asked !== this.asked) return;  // a later search took over
      const pictures = answer.pictures ?? [];
      const none = `Nothing was found for “${keywords}”. Try other words.`;
      text(this.finderNote, answer.message ? `${answer.message} ${answer.hint ?? ""}` : pictures.length ? `${pictures.length} picture${pictures.length === 1 ? "" : "s"}. Choose the one your film starts from.` : none);
      this.fill(pictures);
    }

    async ask(keywords) {
      const abort = new AbortController(), alarm = setTimeout(() => abort.abort(), TIMEOUT_MS);
      try {
        const reply = await fetch(svi.signed(`${ROOT()}pictures`), {
          method: "POST", signal: abort.signal, headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ keywords, owner: svi.owner() }),
        });
        const answer = await reply.json();
        return reply.ok || answer.message ? answer : trouble;
      } catch (error) {
        console.debug(error);
        return trouble;
      } finally { clearTimeout(alarm); }
    }

    fill(pictures) {
      show(this.grid, pictures.length > 0);
      while (this.grid.children.length > 1) this.grid.lastChild.remove();  // the legend stays
      this.grid.append(...pictures.map((picture) => el("label.picture", {},
        el("input", { type: "radio", name: "found-picture", value: picture.id, onchange: () => this.choose(picture) }),
        el("img", { src: this.thumbnail(picture), alt: this.words(picture), decoding: "async" }),
        el("small", { dir: "auto" }, el("bdi", {}, picture.author || "Unknown author"), ", ", el("bdi", {}, picture.licence)))));
    }

    words({ title, source }) { return title || `A picture from ${source}`; }

    // Only what this studio serves itself is ever loaded.
    thumbnail({ thumbnail_url: address }) {
      const url = new URL(address, document.baseURI);
      return url.origin === location.origin ? svi.signed(url.href) : "";
    }

    choose(picture) {
      svi.form.found = picture;
      if (!picture) for (const radio of this.grid.querySelectorAll("input:checked")) radio.checked = false;
      else svi.say(`Chosen: ${this.words(picture)}.`);
      svi.parts.player?.picture(picture ? this.thumbnail(picture) : svi.form.image?.url ?? null);
      svi.draw();
    }
  }
})();
