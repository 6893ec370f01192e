"""The lab: Algorithm 1 on vectors, its theorems, and what is exactly true of it. Never torch.

Each name lives in its submodule: `problems` by name, `quadratics` (eq. 9), `sparse`, `factored`
and `glm` (what is minimised), `data` and `table` (where it comes from), `objective` (F),
`sketches` (5, 12), `work` (lines 4-8), `merges` (2, 4), `estimator` and `moments` (10, 11, 22),
`theorems` (18-28), `curves` (exact expectations), `simulation` (many seeds at once, compiled).
"""
