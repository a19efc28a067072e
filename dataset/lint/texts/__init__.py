"""What a single text may have wrong with it, and how the few that might are found among many. Begin with `rules`."""
