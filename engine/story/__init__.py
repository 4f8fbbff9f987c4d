"""From a picture and a few keywords to a storyline."""
