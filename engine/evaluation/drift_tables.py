"""The drift benchmark's figures as Markdown, beside the paper's.

The paper's figures (arXiv 2510.09212) are VBench scores in percent of a 14B model's films; ours are measured against an
exact truth, with a small model that moves and lights a picture. Only the direction of a difference can be compared.
"""

from collections.abc import Sequence

PAPER_CONSISTENT = {  # Table 1, 250 s, one prompt, and Table 5: subject consistency, dynamic degree
    "base": ("Wan 2.1", 80.00, 14.29),
    "erft": ("SVI-Shot", 97.50, 21.43),
    "copy clips": ("copy clips", 98.48, 7.14),
    "ping-pong": ("ping-pong clips", 98.51, 7.14),
    "copy image": ("copy reference image", 100.00, 0.00),
}
PAPER_ABLATION = {  # Table 4: errors in image, noise, video latents; SC, BC, AQ, IQ. Row order recovered from a copy
    "base": ("– – –", "Wan 2.1", (66.73, 82.83, 43.95, 42.31)),
    "no-image": ("– ✓ ✓", "w/o E_img", (73.82, 84.21, 49.58, 57.63)),
    "no-noise": ("✓ – ✓", "w/o E_noi", (94.22, 94.87, 59.80, 69.90)),
    "no-latent": ("✓ ✓ –", "w/o E_vid", (93.56, 95.01, 58.99, 71.50)),
    "erft": ("✓ ✓ ✓", "full", (94.69, 95.39, 61.88, 71.22)),
}
PAPER_STRENGTH = {  # Table 7: LoRA α at test. Row labels recovered from a copy
    0.2: (92.16, 93.68, 58.52, 77.49),
    0.4: (97.49, 96.73, 59.86, 77.32),
    0.8: (99.59, 99.37, 59.69, 78.11),
    1.0: (98.54, 97.97, 59.88, 78.12),
}
PAPER_BANK = {  # Table 8: errors kept per grid
    1: (67.82, 82.90, 51.55, 52.96),
    10: (67.41, 81.79, 52.12, 54.29),
    100: (68.51, 82.97, 51.03, 55.30),
    500: (69.34, 83.14, 52.83, 56.97),
    1000: (69.14, 83.83, 51.36, 55.06),
    2000: (69.02, 82.98, 51.39, 54.55),
}
OWN_HEAD = ["loss, dB (ours)", "PSNR at the end (ours)", "SSIM at the end (ours)", "dynamic degree (ours)"]
PAPER_HEAD = ["paper SC", "BC", "AQ", "IQ"]
NOT_RUN = ["not run"] * len(OWN_HEAD)
NOTES = """\
exact: the true fields, composed to the picture: what the studio would make with a model without error. perfect: the
same handed over by frames, the ceiling of a model that knows only the frames it was handed. composed: the base model's
fields, composed to the picture, the studio's default. base, control, erft hand over frames, as the paper does. copy
clips, ping-pong, copy image: the first true clip over and over, to and fro, and the picture standing.

The bar: at most a tenth of the control's loss, dynamic degree not below the control's, a better end than the control's.

Judged are the pixels whose content stays in view through the whole film, of the last frame of each clip. Of all frames:
the mean PSNR; motion, the mean change a frame, of 255; and consistency, which has VBench's form on 8×8 pixel means, not
on DINO or CLIP features. Camera off is how far the frame's corners lie from where they should. Dynamic degree is the
share of the asked change that was performed. Sharpness is the mean Laplacian over the contrast, over the truth's: 1 is
equal."""


def table(figures: dict) -> str:
    """The report of `drift_report.report` as Markdown."""
    parts = [headline(figures["setting"])]
    for variant in dict.fromkeys(arm["variant"] for arm in figures["arms"].values()):
        parts += [f"### {variant.capitalize()}", verdict_line(figures, variant)]
        parts += [part(figures, variant) for part in (main_table, causes_table, fooling_table)]
        parts += [part(figures, variant) for part in (ablation_table, strength_table, bank_table)]
    parts.append(NOTES)
    if figures["left_out"]:
        parts.append("Left out: " + "; ".join(f"{arm} ({why})" for arm, why in figures["left_out"].items()) + ".")
    return "\n\n".join(part for part in parts if part)


def headline(setting: dict) -> str:
    chains, seeds, windows = setting["chains"], setting["seeds"], setting["windows"]
    return (
        f"{chains * seeds} films an arm ({chains} chains × {seeds} seeds from {setting['pictures']} pictures) of "
        f"{setting['clips']} clips of {setting['frames']} frames, {setting['size']}, {setting['steps']} steps; clips "
        f"{windows['first']} → {windows['last']}. In brackets 95 % intervals: pictures drawn again "
        f"{setting['resamples']} times, the same "
        "draws for every arm. All figures are ours, against the exact truth, unless a column says paper."
    )


def main_table(figures: dict, variant: str) -> str:
    """PSNR with its loss, the verdicts, and dynamic degree beside consistency, which copying wins."""
    rows = [main_row(arm, figures["verdicts"].get(name, {})) for name, arm in arms_of(figures, variant).items()]
    head = ["arm", "hands over", "PSNR, dB", "loss, dB", "loss / control's", "bar", "the same beyond perfect", "bar"]
    return markdown([*head, "SSIM", "dynamic degree", "motion", "consistency, %"], rows)


def main_row(arm: dict, verdict: dict) -> list[str]:
    metrics = arm["metrics"]
    beyond = verdict.get("beyond_perfect", {})
    return [
        arm["label"],
        arm["handover"] or "–",
        change(metrics["psnr"], 1),
        interval(negated(metrics["psnr"]["change"])),
        ratio(verdict),
        verdict.get("outcome", "–"),
        ratio(beyond),
        beyond.get("outcome", "–"),
        change(metrics["ssim"], 3),
        interval(metrics["dynamic_degree"]["every"], digits=2),
        number(metrics["motion"]["every"], 2),
        number(metrics["consistency"]["every"], 1, scale=100.0),
    ]


def causes_table(figures: dict, variant: str) -> str:
    """What the drift is made of."""
    columns = {
        "mean PSNR, dB": ("psnr_mean", 1, 1.0),
        "camera off, % of width": ("camera_error", 2, 100.0),
        "colour shift, of 255": ("colour_shift", 1, 1.0),
        "contrast shift, of 255": ("contrast_shift", 1, 1.0),
        "sharpness": ("sharpness", 2, 1.0),
    }
    rows = [
        [arm["label"], *(change(arm["metrics"][m], digits, scale) for m, digits, scale in columns.values())]
        for arm in arms_of(figures, variant).values()
    ]
    return markdown(["arm", *columns], rows)


def verdict_line(figures: dict, variant: str) -> str:
    """Whether the variant's own LoRA clears the bar."""
    bar = (
        f"**{variant.capitalize()}: error recycling loses at most a tenth of what the control loses "
        "(paper: 0.63 against 7.03 points of subject consistency), and its dynamic degree is not below"
    )
    verdict = figures["verdicts"].get(f"{variant} erft")
    if verdict is None:
        lacking = [arm for arm in (f"{variant} control", f"{variant} erft") if arm in figures["left_out"]]
        return f"{bar}: not judged.** Without {' and '.join(lacking)} there is nothing to compare."
    text = f"{bar}: {verdict['outcome']}.** {told(verdict)}"
    if beyond := verdict.get("beyond_perfect"):
        text += f" Beyond what a perfect model loses: {beyond['outcome']}. {told(beyond)}"
    return text


def told(verdict: dict) -> str:
    """The ratio of losses, and the claims that do not hold or are open."""
    open_claims = f" Claims refuted or open: {'; '.join(verdict['reasons'])}." if verdict["reasons"] else ""
    return f"Loss over the control's: {ratio(verdict)}.{open_claims}"


def fooling_table(figures: dict, variant: str) -> str:
    """The paper's Table 5 beside ours: copying wins consistency and loses dynamic degree."""
    by_role = {arm["role"]: arm for arm in arms_of(figures, variant).values()}
    rows = []
    for role, (label, consistency, degree) in PAPER_CONSISTENT.items():
        metrics = by_role[role]["metrics"] if role in by_role else None
        ours = [100 * metrics[m]["every"]["value"] for m in ("consistency", "dynamic_degree")] if metrics else None
        cells = [f"{value:.1f}" for value in ours] if ours else ["not run"] * 2
        rows.append([role, *cells, label, f"{consistency:.2f}", f"{degree:.2f}"])
    head = ["arm", "consistency, % (ours)", "dynamic degree, % (ours)", "paper", "SC", "DD"]
    return "Fooling consistency, beside the paper's Tables 1 and 5 (250 s, consistent):\n\n" + markdown(head, rows)


def ablation_table(figures: dict, variant: str) -> str:
    """The paper's Table 4 beside ours, when any of its LoRAs was measured."""
    ours = own_columns(figures, variant)
    if not {"no-image", "no-noise", "no-latent"} & set(ours):
        return ""
    rows = [
        [errors, *ours.get(label, NOT_RUN), name, *paper_cells(paper)]
        for label, (errors, name, paper) in PAPER_ABLATION.items()
    ]
    head = ["errors: image noise latents", *OWN_HEAD, "paper, Table 4 (1 epoch)", *PAPER_HEAD]
    return "Which errors matter:\n\n" + markdown(head, rows)


def strength_table(figures: dict, variant: str) -> str:
    """The paper's Table 7 beside ours, when a strength other than the preset's was measured."""
    arms = arms_of(figures, variant)
    if not any(arm["role"] == "strength" for arm in arms.values()):
        return ""
    ours = {arm["strength"]: cells_of(arm) for arm in arms.values() if arm["role"] in ("strength", "erft")}
    rows = [
        [f"{strength:g}", *ours.get(strength, NOT_RUN), *paper_cells(PAPER_STRENGTH.get(strength))]
        for strength in sorted(ours | PAPER_STRENGTH)
    ]
    return "Strength of the LoRA, beside the paper's Table 7:\n\n" + markdown(["α", *OWN_HEAD, *PAPER_HEAD], rows)


def bank_table(figures: dict, variant: str) -> str:
    """The paper's Table 8 beside ours, when a LoRA called bank-Z was measured."""
    ours = {
        int(arm["label"].removeprefix("bank-")): cells_of(arm)
        for arm in arms_of(figures, variant).values()
        if arm["label"].removeprefix("bank-").isdigit()
    }
    if not ours:
        return ""
    rows = [
        [str(size), *ours.get(size, NOT_RUN), *paper_cells(PAPER_BANK.get(size))] for size in sorted(ours | PAPER_BANK)
    ]
    head = ["errors a grid", *OWN_HEAD, *PAPER_HEAD]
    return "Size of the error bank, beside the paper's Table 8:\n\n" + markdown(head, rows)


def own_columns(figures: dict, variant: str) -> dict[str, list[str]]:
    return {arm["label"]: cells_of(arm) for arm in arms_of(figures, variant).values()}


def cells_of(arm: dict) -> list[str]:
    metrics = arm["metrics"]
    return [
        interval(negated(metrics["psnr"]["change"])),
        number(metrics["psnr"]["last"]),
        number(metrics["ssim"]["last"], 3),
        number(metrics["dynamic_degree"]["every"], 2),
    ]


def paper_cells(scores: Sequence[float] | None) -> list[str]:
    return [f"{score:.2f}" for score in scores] if scores else ["–"] * len(PAPER_HEAD)


def arms_of(figures: dict, variant: str) -> dict[str, dict]:
    return {name: arm for name, arm in figures["arms"].items() if arm["variant"] == variant}


def number(part: dict, digits: int = 1, scale: float = 1.0) -> str:
    return "–" if part["value"] is None else f"{scale * part['value']:.{digits}f}"


def interval(part: dict, digits: int = 1) -> str:
    if part["value"] is None:
        return "–"
    return f"{part['value']:.{digits}f} [{part['low']:.{digits}f}, {part['high']:.{digits}f}]"


def ratio(verdict: dict) -> str:
    return interval(verdict["ratio"], digits=2) if verdict.get("ratio") else "–"


def change(parts: dict, digits: int, scale: float = 1.0) -> str:
    return " → ".join(number(parts[name], digits, scale) for name in ("first", "last"))


def negated(part: dict) -> dict:
    """A loss from a change: the sign and the ends of the interval turned."""
    value, low, high = (None if part[name] is None else -part[name] for name in ("value", "low", "high"))
    return {"value": value, "low": high, "high": low}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
