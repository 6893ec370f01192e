"""Figures: functions from records to matplotlib figures. They read records and run nothing.

`style` holds the colours and the way to SVG, `courses` reads training records, `training`, `lab`,
`deal` and `network` draw.
"""
