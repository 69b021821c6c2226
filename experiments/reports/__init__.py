"""Reports of runs: Markdown, terminal and pictures."""
