"""Speed as ratios, measured fairly: what a machine, a library or a recipe takes its time for."""
