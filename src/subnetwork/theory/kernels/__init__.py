"""Compiled twins of `subnetwork.keys`, `subnetwork.deals` and of `rounds` on quadratics.

`streams` and `draws` give the same integers as the plain Python they stand beside, the others the
same iterates to rounding; tests hold them together. All seeds of a chunk advance through a round
together, so that L_i, or a tile of its rows, is read from cache by every one of them; what a seed
computes depends on nothing that its neighbours do. `subnetwork.theory.simulation` is the checked
way to call them.

Numba keeps compiled code by file and does not see that another file changed whose functions were
compiled into it: after editing one of these files, remove the cache: `__pycache__` beside
them, or the folder that NUMBA_CACHE_DIR names.
"""
