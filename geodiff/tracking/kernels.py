"""The inner loops of a video's fit, in numba; `face_model.py` and `systems.py` say the same in NumPy.

Matrices of sixty columns are too small for a threaded BLAS: its threads cost more than they bring. These kernels run on
one thread each and let go of the interpreter, so that parts of a video go side by side.
"""

from __future__ import annotations

import numpy as np

from geodiff.raster.compiled import kept


@kept(fastmath=True)
def frame_normals(carried, basis, others, right, lead, matrix, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Adds up J^T J and J^T r of T frames, with J = [some others, carried @ basis, the other others], never kept.

    carried: (T, 2, 3, L) derivatives of the pixels by the unposed landmarks. basis: (3, E, L) expressions there.
    others: (T, C, 2, L) the columns that are no expressions, `lead` of them before those. right: (T, 2, L) residuals.
    All float32. Into matrix: (T, C + E, C + E) and gradient: (T, C + E), float64.
    """
    count, marks = carried.shape[0], carried.shape[3]
    ahead, width = others.shape[1], others.shape[1] + basis.shape[1]
    # An even number of columns, so that the products below go in pairs.
    columns = np.zeros((width + width % 2, 2 * marks), np.float32)
    for t in range(count):
        for a in range(ahead):
            place = a if a < lead else a + basis.shape[1]
            for side in range(2):
                for mark in range(marks):
                    columns[place, side * marks + mark] = others[t, a, side, mark]
        for e in range(basis.shape[1]):
            for side in range(2):
                for mark in range(marks):
                    columns[lead + e, side * marks + mark] = (
                        carried[t, side, 0, mark] * basis[0, e, mark]
                        + carried[t, side, 1, mark] * basis[1, e, mark]
                        + carried[t, side, 2, mark] * basis[2, e, mark]
                    )
        for a in range(0, columns.shape[0], 2):
            for b in range(0, a + 1, 2):
                aa, ab, ba, bb = _four_products(columns[a], columns[a + 1], columns[b], columns[b + 1])
                matrix[t, a, b] = matrix[t, b, a] = aa
                if b + 1 < width:
                    matrix[t, a, b + 1] = matrix[t, b + 1, a] = ab
                if a + 1 < width:
                    matrix[t, a + 1, b] = matrix[t, b, a + 1] = ba
                    if b + 1 < width:
                        matrix[t, a + 1, b + 1] = matrix[t, b + 1, a + 1] = bb
        for a in range(width):
            total = np.float32(0.0)
            for side in range(2):
                for mark in range(marks):
                    total += columns[a, side * marks + mark] * right[t, side, mark]
            gradient[t, a] = total


@kept(fastmath=True)
def _four_products(a, b, c, d):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The products of two vectors with two others; each is loaded once for two of them."""
    ac = ad = bc = bd = np.float32(0.0)
    for i in range(len(a)):
        ac += a[i] * c[i]
        ad += a[i] * d[i]
        bc += b[i] * c[i]
        bd += b[i] * d[i]
    return ac, ad, bc, bd


@kept(fastmath=True)
def solve_band(band, right):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Solves a symmetric positive definite banded system by Cholesky's factorisation, in place.

    band: (N, B + 1) float64, band[i, B - k] is the matrix's entry (i, i - k); it becomes the factor. right: (N,)
    becomes the solution. Returns False where the matrix is not positive definite.
    """
    size, width = band.shape[0], band.shape[1] - 1
    for i in range(size):
        first = max(0, i - width)
        row = band[i]
        for j in range(first, i + 1):
            # Row j of the factor begins where row i does, or later.
            start = max(first, j - width)
            total = 0.0
            below = band[j, start - j + width : width]
            beside = row[start - i + width : j - i + width]
            for k in range(len(below)):
                total += below[k] * beside[k]
            value = row[j - i + width] - total
            if j < i:
                row[j - i + width] = value / band[j, width]
            elif value <= 0.0:
                return False
            else:
                row[width] = np.sqrt(value)
    for i in range(size):
        start = max(0, i - width)
        total = 0.0
        for k in range(start, i):
            total += band[i, k - i + width] * right[k]
        right[i] = (right[i] - total) / band[i, width]
    for i in range(size - 1, -1, -1):
        right[i] /= band[i, width]
        for k in range(max(0, i - width), i):
            right[k] -= band[i, k - i + width] * right[i]
    return True


@kept(fastmath=True)
def solve_blocks(matrices, right):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Solves symmetric positive definite systems by Cholesky's factorisation, in place.

    matrices: (T, N, N) float64, whose lower triangles become the factors. right: (T, N, K) becomes the solutions.
    Returns False where a matrix is not positive definite.
    """
    size = matrices.shape[1]
    for t in range(matrices.shape[0]):
        factor, values = matrices[t], right[t]
        for i in range(size):
            for j in range(i + 1):
                total = 0.0
                for k in range(j):
                    total += factor[i, k] * factor[j, k]
                rest = factor[i, j] - total
                if j < i:
                    factor[i, j] = rest / factor[j, j]
                elif rest <= 0.0:
                    return False
                else:
                    factor[i, i] = np.sqrt(rest)
        for i in range(size):
            for k in range(i):
                values[i] -= factor[i, k] * values[k]
            values[i] /= factor[i, i]
        for i in range(size - 1, -1, -1):
            values[i] /= factor[i, i]
            for k in range(i):
                values[k] -= factor[i, k] * values[i]
    return True
