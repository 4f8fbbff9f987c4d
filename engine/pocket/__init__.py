"""The embedded model: fields of motion and light that bend the creator's own pixels. See assets/pocket/README.md.

motion, framing, render, world, lexicon and captions are plain numpy; layout, codec and model need torch.
"""
