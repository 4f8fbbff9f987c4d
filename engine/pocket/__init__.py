"""The embedded model: fields of motion and light that bend the creator's own pixels. See assets/pocket/README.md.

motion, framing, render, world, asked, lexicon and reading need no torch; layout, codec and model do.
"""
