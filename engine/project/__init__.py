"""The project folder: the only state there is."""
