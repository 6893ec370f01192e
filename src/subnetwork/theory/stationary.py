"""Where curves end and where they blow up: stationary moments, floors, mean-square stability.

With H = E[B], a stationary second moment solves gamma (H M + M H') - gamma^2 E[B M B'] = R. The
left side without its second term is inverted exactly (`_Lyapunov`); what is left, the map
S = M -> gamma (H . + . H')^-1 E[B M B'], keeps psd matrices psd, and E|x^k|^2 stays bounded if and
only if its largest eigenvalue is below 1. As S is linear in gamma, the limit is 1 / that of
gamma = 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigs, gmres

from subnetwork.shapes import Floats, Matrix, Vector
from subnetwork.theory.curves import Moments, fixed_point, second_r
from subnetwork.theory.moments import Linear, mean_B, mean_u, second_B
from subnetwork.theory.problems import Quadratics

SMALL = 12  # up to here the maps of d x d matrices are written out as matrices


@dataclass(frozen=True, eq=False)
class _Lyapunov:
    """M -> the X with H X + X H' = M, by the eigenvectors of H."""

    values: Floats  # complex where H is not symmetric
    V: Floats
    V_inverse: Floats

    def __call__(self, M: Matrix) -> Matrix:
        inner = self.V_inverse @ M @ self.V_inverse.conj().T
        X = self.V @ (inner / (self.values[:, None] + self.values.conj())) @ self.V.conj().T
        return _symmetric(np.ascontiguousarray(np.real(X)))


def stability_limit(e: Linear) -> float:
    """The largest gamma below which E|x^k|^2 stays bounded, whatever x^0.

    Raises:
        ValueError: some eigenvalue of E[B] has no positive real part, so that no step is stable.
    """
    inverse = _lyapunov(e)
    return 1 / _radius(lambda M: inverse(second_B(e, M)), len(inverse.V))


def growth(e: Linear, *, step_size: float) -> float:
    """The factor of E|x^k|^2 a round in the long run: below 1 where the step is stable."""
    H = mean_B(e)

    def after(M: Matrix) -> Matrix:
        HM = step_size * H @ M
        return M - HM - HM.T + step_size**2 * second_B(e, M)

    return _radius(after, len(H))


def _radius(after: Callable[[Matrix], Matrix], d: int) -> float:
    """The largest eigenvalue of a linear map of symmetric matrices that keeps them psd."""
    if d <= SMALL:
        return float(np.abs(np.linalg.eigvals(_table(after, d))).max())

    def flat(M: Vector) -> Vector:
        return np.asarray(after(_symmetric(M.reshape(d, d))).ravel())

    operator = LinearOperator((d * d, d * d), matvec=flat, dtype=np.float64)
    start = np.eye(d).ravel()
    values = eigs(operator, k=1, which="LM", v0=start, tol=1e-11, return_eigenvectors=False)
    return float(np.abs(values).max())


def _table(after: Callable[[Matrix], Matrix], d: int) -> Floats:
    """The map as a matrix: its columns are the images of a basis of the symmetric matrices."""
    upper, columns = np.triu_indices(d), []
    for j, m in zip(*upper, strict=True):
        M = np.zeros((d, d))
        M[j, m] = M[m, j] = 1.0
        columns.append(_symmetric(after(M))[upper])
    return np.stack(columns, axis=1)


def stationary(problem: Quadratics, e: Linear, *, step_size: float) -> Moments:
    """The moments that `curves.expected` tends to: bias and floor at this step size.

    Raises:
        ValueError: the step size is not stable.
    """
    limit = stability_limit(e)
    if not 0 < step_size < limit:
        raise ValueError(
            f"step_size={step_size:.4g} has no stationary second moment: E|x|^2 grows at or above "
            f"{limit:.4g}. Use a smaller one."
        )
    inverse = _lyapunov(e)
    x_inf = fixed_point(e)
    m = x_inf - problem.minimiser
    noise = step_size * inverse(_noise_at_fixed_point(e))  # covariance about x_inf

    M = _solved(lambda M: M - step_size * inverse(second_B(e, M)), noise)
    return Moments(m, M + np.outer(m, m))


def _solved(left: Callable[[Matrix], Matrix], right: Matrix) -> Matrix:
    """The symmetric M with left(M) = right."""
    d = len(right)
    if d <= SMALL:
        upper, M = np.triu_indices(d), np.zeros((d, d))
        M[upper] = np.linalg.solve(_table(left, d), right[upper])
        return np.asarray(M + M.T - np.diag(np.diag(M)))

    def flat(M: Vector) -> Vector:
        return np.asarray(left(_symmetric(M.reshape(d, d))).ravel())

    operator = LinearOperator((d * d, d * d), matvec=flat, dtype=np.float64)
    found, failed = gmres(operator, right.ravel(), rtol=1e-12, atol=0.0, restart=60, maxiter=20)
    if failed:
        raise ValueError(
            "The stationary moments did not come out, so close is the step size to the limit of "
            "stability. Use one that is 5 % smaller."
        )
    return _symmetric(found.reshape(d, d))


def _noise_at_fixed_point(e: Linear) -> Matrix:
    """E[r r'] for r = u - B x_inf, which has mean zero."""
    about = np.asarray(np.linalg.solve(mean_B(e), mean_u(e)))
    return _symmetric(second_r(e, about))


def s2(e: Linear) -> float:
    """E|B x_inf - u|^2: what a stationary iterate is shaken by."""
    return float(np.trace(_noise_at_fixed_point(e)))


def _lyapunov(e: Linear) -> _Lyapunov:
    H = mean_B(e)
    if np.abs(H - H.T).max() <= 1e-13 * np.abs(H).max():
        values, V = np.linalg.eigh((H + H.T) / 2)
        found = _Lyapunov(values, V, np.ascontiguousarray(V.T))
    else:
        values, V = np.linalg.eig(H)
        found = _Lyapunov(values, V, np.linalg.inv(V))
    lowest = float(np.real(values).min())
    if lowest <= 0:
        raise ValueError(
            f"E[B] has an eigenvalue of real part {lowest:.3g}, so E x^k does not settle at any "
            "step size. Add a ridge to the problem."
        )
    return found


def _symmetric(M: Matrix) -> Matrix:
    return np.asarray((M + M.T) / 2)
