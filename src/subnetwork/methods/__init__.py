"""Named methods: each a few lines that hand `rounds` a sketch, a local work and a merge.

`Training` (plain data, starts without torch) says what to run; `subnetwork.methods.rows` is the
table of methods.
"""

from subnetwork.methods.training import Training

__all__ = ["Training"]
