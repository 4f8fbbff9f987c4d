// What runs on this machine and what it takes, which weights are missing, and what can be done without a GPU.
// Asks the studio again while the answer may change by itself; knows nothing about films but their size.
(() => {
  "use strict";

  const { svi } = window;
  const { el, text, show } = svi;
  const LOOKING_MS = 2000, MISSING_MS = 15000;
  const URL = () => `${document.baseURI.replace(/[?#].*$/, "").replace(/\/$/, "")}/gradio_api/studio/`;

  // A command in a box of its own, with a button that copies it.
  const commandBox = (command) => {
    const code = el("code", {}, command);
    const button = el("button.plain.small", { type: "button", "aria-label": `Copy the command ${command}` }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command);
        text(button, "Copied");
      } catch {  // no permission: selected, so that a key copies it
        window.getSelection().selectAllChildren(code);
        text(button, "Press Ctrl+C");
      }
      svi.say(`${button.textContent}: ${command}`);
      setTimeout(() => text(button, "Copy"), 3000);
    });
    return el("div.command", {}, code, button);
  };

  const readme = () => el("a", { href: `${svi.signed(`${URL()}readme`)}#:~:text=weights%20download`, target: "_blank", rel: "noopener" }, "About weights in the README");

  const table = (rows) => {
    const head = ["GPU memory", "Host memory", "How it runs"].map((name) => el("th", { scope: "col" }, name));
    const lines = rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell))));
    return el("table", { "aria-label": "Memory that it takes" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...lines));
  };

  const missingParts = ({ text: words, command, only_drafts }) => [
    el("h3", {}, only_drafts ? "Weights for drafts are missing" : "Weights are missing"),
    el("p", {}, [words, only_drafts].filter(Boolean).join(" ")),
    ...(command ? [el("p", {}, "This command fetches them, and goes on where it stopped:"), commandBox(command)] : []),
    el("p", {}, readme()),
  ];

  const gpuParts = ({ title, text: words, tiers, basis, ways }) => [
    el("h3", {}, title), el("p", {}, words), table(tiers), el("p", {}, basis),
    ...ways.flatMap((way) => [el("p", {}, way.text), commandBox(way.command)]),
  ];

  class Machine {
    constructor(root) {
      const at = (name) => root.querySelector(`[data-at=${name}]`);
      [this.about, this.figures, this.lacking] = [at("machine"), at("figures"), at("lacking")];
      this.draw();
    }

    draw() {
      const { machine } = svi.setup;
      if (!machine) return;
      this.timer ??= setTimeout(() => this.ask(), LOOKING_MS);
      text(this.about, machine.about);
      const hd = svi.state ? svi.state.project.hd : svi.form.size === "hd";
      const { rows, problems } = machine.sizes[hd ? "hd" : "sd"] ?? machine.sizes.sd;
      const key = JSON.stringify([rows, problems, machine.missing, machine.without_gpu]);
      if (key === this.key) return;
      this.key = key;
      show(this.figures, true);
      this.figures.replaceChildren(
        ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
        ...problems.flatMap((problem, row) => [el("dt", {}, row ? "" : "In the way"), el("dd.problem-row", {}, problem)]));
      const blocks = [machine.without_gpu && gpuParts(machine.without_gpu), machine.missing && missingParts(machine.missing)].filter(Boolean);
      show(this.lacking, blocks.length > 0);
      this.lacking.replaceChildren(...blocks.map((parts) => el("div.lack", {}, ...parts)));
    }

    // The worker looks at the machine some seconds after the start; weights come while somebody fetches them.
    async ask() {
      const before = svi.setup.machine;
      if (before.known && !before.missing) return;
      try {
        const reply = document.hidden && before.known ? null : await fetch(svi.signed(`${URL()}machine`), { cache: "no-store" });
        if (reply?.ok) {
          svi.setup.machine = await reply.json();
          if (before.missing && !svi.setup.machine.missing) svi.refetch();
          svi.draw();
        }
      } catch (error) { console.debug(error); }
      this.timer = setTimeout(() => this.ask(), svi.setup.machine.known ? MISSING_MS : LOOKING_MS);
    }
  }

  svi.mounts.machine = (element) => {
    svi.elements.moves = element.querySelector("[data-at=moves]");
    svi.elements.moveList = element.querySelector("[data-at=moveList]");
    svi.parts.machine = new Machine(element);
    svi.drawMoves();
  };
  svi.mounts.random = () => {};
})();
