"""Many films from one plan: OUT/films/NAME/, OUT/samples/NAME/, OUT/NAME.mp4 and a summary; stopped runs go on."""
