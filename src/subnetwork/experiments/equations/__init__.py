"""One figure and its verdicts for every equation of the slides, by enumeration or exactly."""
