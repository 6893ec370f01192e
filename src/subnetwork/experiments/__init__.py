"""One file a claim, a figure or a table: what was measured beside what was claimed."""
