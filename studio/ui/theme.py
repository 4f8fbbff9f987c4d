"""The studio's colours and type, in light and dark. Every pair of text and background has a contrast of 4.5 or more."""

import gradio as gr
from gradio.themes.utils.fonts import LocalFont

# name: (light, dark). style.css reads the same ones as --svi-*.
PALETTE = {
    "ground": ("#efece4", "#0d0e11"),
    "panel": ("#fbf9f4", "#15171b"),
    "raised": ("#ffffff", "#1d2026"),
    "line": ("#d8d2c4", "#2c3038"),
    "edge": ("#8a8373", "#6d7280"),  # borders of controls: 3:1 on panels
    "ink": ("#201d18", "#efebe3"),
    "dim": ("#5d574b", "#aba79d"),
    "accent": ("#f0b040", "#f0b040"),
    "accent-ink": ("#1d1503", "#1d1503"),
    "accent-text": ("#7d4a00", "#f3bd5c"),
    "run": ("#0a5a9c", "#7fc4ff"),
    "ok": ("#1e6a3b", "#8fd3a6"),
    "warn": ("#8a4600", "#ffb777"),
    "bad": ("#a2241b", "#ff9b90"),
}


def variables() -> str:
    """The palette as CSS custom properties."""
    light = "".join(f"--svi-{name}:{pair[0]};" for name, pair in PALETTE.items())
    dark = "".join(f"--svi-{name}:{pair[1]};" for name, pair in PALETTE.items())
    return f":root{{{light}color-scheme:light}}\n.dark{{{dark}color-scheme:dark}}\n"


def build() -> gr.themes.Base:
    """Gradio's own fields in the studio's palette; fonts come with Gradio, so nothing is fetched from elsewhere.

    Weights 400 and 700: the 600 file that Gradio 6.31 ships lacks common letters.
    """
    theme = gr.themes.Base(
        font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
        text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_md,
        radius_size=gr.themes.sizes.radius_sm,
    )
    fields = {
        "body_background_fill": "ground",
        "body_text_color": "ink",
        "body_text_color_subdued": "dim",
        "background_fill_primary": "panel",
        "background_fill_secondary": "ground",
        "border_color_primary": "line",
        "border_color_accent": "edge",
        "color_accent_soft": "raised",
        "link_text_color": "accent-text",
        "link_text_color_hover": "ink",
        "link_text_color_active": "ink",
        "link_text_color_visited": "accent-text",
        "block_background_fill": "panel",
        "block_border_color": "line",
        "block_label_background_fill": "panel",
        "block_label_text_color": "dim",
        "block_label_border_color": "line",
        "block_title_text_color": "dim",
        "block_info_text_color": "dim",
        "accordion_text_color": "ink",
        "panel_background_fill": "panel",
        "input_background_fill": "raised",
        "input_background_fill_focus": "raised",
        "input_border_color": "edge",
        "input_border_color_focus": "accent-text",
        "input_placeholder_color": "dim",
        "checkbox_background_color": "raised",
        "checkbox_background_color_selected": "accent-text",
        "checkbox_border_color": "edge",
        "checkbox_border_color_selected": "accent-text",
        "checkbox_border_color_focus": "accent-text",
        "checkbox_label_background_fill": "raised",
        "checkbox_label_background_fill_hover": "panel",
        "checkbox_label_background_fill_selected": "raised",
        "checkbox_label_border_color": "edge",
        "checkbox_label_border_color_selected": "accent-text",
        "checkbox_label_text_color": "ink",
        "checkbox_label_text_color_selected": "ink",
        "error_background_fill": "panel",
        "error_border_color": "bad",
        "error_text_color": "bad",
        "error_icon_color": "bad",
        "loader_color": "accent-text",
        "slider_color": "accent-text",
        "button_primary_background_fill": "accent",
        "button_primary_background_fill_hover": "accent",
        "button_primary_text_color": "accent-ink",
        "button_primary_text_color_hover": "accent-ink",
        "button_secondary_background_fill": "raised",
        "button_secondary_background_fill_hover": "panel",
        "button_secondary_text_color": "ink",
        "button_secondary_text_color_hover": "ink",
        "button_secondary_border_color": "edge",
    }
    colours = {name: PALETTE[role][0] for name, role in fields.items()}
    colours |= {f"{name}_dark": PALETTE[role][1] for name, role in fields.items()}
    return theme.set(
        **colours,
        color_accent=PALETTE["accent"][0],
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_border_width="0px",
        form_gap_width="14px",
        layout_gap="14px",
        input_shadow="none",
        input_border_width="1px",
        checkbox_label_border_width="1px",
        checkbox_label_shadow="none",
        body_text_size="14px",
    )
