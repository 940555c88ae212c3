"""The inner loops of the mesh rasteriser (numba): which face a pixel sees, its weights there, and means over samples.

Edges are evaluated in float64 from the same end whichever of two triangles asks, so that both see the same number with
the opposite sign, and the top-left rule gives a centre on an edge to one of them (see `geodiff.raster.mesh`).
"""

from __future__ import annotations

import numpy as np

from geodiff.raster.compiled import kept

#: By how much of a pixel the stretch of a row that a triangle covers is widened before it is tried.
SLACK = 1e-6
#: Meshes of MANY faces and more are drawn front faces first, and what lies behind all that is drawn in its tiles, of
#: 1 << TILE pixels a side, is left out before it is tried; tiles are looked at anew after every RENEW faces.
MANY, TILE, RENEW = 8000, 3, 14000


@kept(inline="always")
def _edge(ax: float, ay: float, bx: float, by: float, sign: float) -> tuple[float, float, float, float, float]:
    """The edge from a to b, walked from the same end whichever of its two triangles asks: (x, y) of that end, the way
    along it, and `sign`, turned where the end is b. Twice the area of (a, b, p) is sign * (along_x * (p_y - y) -
    along_y * (p_x - x)): the two triangles find exactly opposite numbers."""
    if ay < by or (ay == by and ax < bx):
        return ax, ay, bx - ax, by - ay, sign
    return bx, by, ax - bx, ay - by, -sign


@kept(inline="always")
def _owns_border(dx: float, dy: float) -> bool:
    """Top-left rule: of the two directions in which an edge is walked, exactly one owns the points on it."""
    return dy < 0.0 or (dy == 0.0 and dx > 0.0)


@kept(inline="always")
def _cut(low: float, high: float, crossing: float, side: float) -> tuple[float, float]:
    """A stretch of a row, cut where an edge crosses it; side: of the edge's inside, 0 for an edge along the row."""
    if side > 0.0:
        return low, min(high, crossing)
    if side < 0.0:
        return max(low, crossing), high
    return low, high


@kept()
def _renew(inverse_depth, tiles):
    """The least 1 / z in each tile, in place: what is farther than that is not seen there."""
    height, width = inverse_depth.shape
    side = 1 << TILE
    for row in range(tiles.shape[0]):
        for column in range(tiles.shape[1]):
            least = np.inf
            for y in range(row * side, min((row + 1) * side, height)):
                for x in range(column * side, min((column + 1) * side, width)):
                    least = min(least, inverse_depth[y, x])
            tiles[row, column] = least


@kept(inline="always")
def _is_behind(tiles, x0, x1, y0, y1, near):
    """Whether a face with pixels in this box, and nowhere nearer than `near`, lies behind all that is drawn there."""
    for row in range(y0 >> TILE, (y1 >> TILE) + 1):
        for column in range(x0 >> TILE, (x1 >> TILE) + 1):
            if near >= tiles[row, column]:
                return False
    return True


@kept(error_model="numpy")
def find_visible(screen, inverse_z, faces, cull, face_map, inverse_depth):
    """Find the nearest face of every pixel, in place. screen: (V, 2) pixels, inverse_z: (V,), 0 marks a vertex that is
    not in front. 1 / z is linear in the image, so it is interpolated for the depth test, and the largest wins."""
    height, width = face_map.shape
    many, drawn = faces.shape[0] >= MANY, 0
    tiles = np.zeros(((height - 1 >> TILE) + 1, (width - 1 >> TILE) + 1))
    behind, turned_away = np.empty(faces.shape[0] if many else 0, np.int32), 0
    for sweep in range(2 if many and not cull else 1):
        for n in range(turned_away if sweep else faces.shape[0]):
            f = behind[n] if sweep else n
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            ax, ay, bx, by = screen[i, 0], screen[i, 1], screen[j, 0], screen[j, 1]
            cx, cy = screen[k, 0], screen[k, 1]
            # A front face is counter-clockwise seen from outside; the image's y points down, so its area is negative.
            area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            if area == 0.0 or (cull and area > 0.0):
                continue
            if many and area > 0.0 and sweep == 0:
                behind[turned_away] = f
                turned_away += 1
                continue
            nearest = max(inverse_z[i], inverse_z[j], inverse_z[k])
            if min(inverse_z[i], inverse_z[j], inverse_z[k]) <= 0.0:
                continue
            low_x, high_x = min(ax, bx, cx), max(ax, bx, cx)
            low_y, high_y = min(ay, by, cy), max(ay, by, cy)
            if high_x < 0.0 or high_y < 0.0 or low_x > width or low_y > height:
                continue
            x0, x1 = int(np.ceil(max(low_x, 0.0) - 0.5)), int(np.floor(min(high_x, float(width)) - 0.5))
            y0, y1 = int(np.ceil(max(low_y, 0.0) - 0.5)), int(np.floor(min(high_y, float(height)) - 0.5))
            x0, x1, y0, y1 = max(x0, 0), min(x1, width - 1), max(y0, 0), min(y1, height - 1)
            if x1 < x0 or y1 < y0 or (many and _is_behind(tiles, x0, x1, y0, y1, nearest * (1.0 + SLACK))):
                continue
            _fill(screen, inverse_z, faces, f, area, x0, x1, y0, y1, face_map, inverse_depth)
            drawn += 1
            if many and drawn % RENEW == 0:
                _renew(inverse_depth, tiles)
        if many and sweep == 0:
            _renew(inverse_depth, tiles)


@kept(error_model="numpy", inline="always")
def _fill(screen, inverse_z, faces, f, area, x0, x1, y0, y1, face_map, inverse_depth):
    """Draw face f, whose pixels lie in columns x0..x1 and rows y0..y1; area: twice its area, with its sign."""
    i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
    zi, zj, zk = inverse_z[i], inverse_z[j], inverse_z[k]
    ax, ay, bx, by, cx, cy = (screen[i, 0], screen[i, 1], screen[j, 0], screen[j, 1], screen[k, 0], screen[k, 1])
    sign = 1.0 if area > 0.0 else -1.0
    own_a = _owns_border(sign * (cx - bx), sign * (cy - by))
    own_b = _owns_border(sign * (ax - cx), sign * (ay - cy))
    own_c = _owns_border(sign * (bx - ax), sign * (by - ay))
    sax, say, dax, day, sa = _edge(bx, by, cx, cy, sign)
    sbx, sby, dbx, dby, sb = _edge(cx, cy, ax, ay, sign)
    scx, scy, dcx, dcy, sc = _edge(ax, ay, bx, by, sign)
    scale = 1.0 / abs(area)
    side_a, side_b, side_c = sa * day, sb * dby, sc * dcy
    lean_a, lean_b, lean_c = dax / day, dbx / dby, dcx / dcy
    for y in range(y0, y1 + 1):
        up_a, up_b, up_c = y + 0.5 - say, y + 0.5 - sby, y + 0.5 - scy
        low, high = _cut(x0 + 0.5, x1 + 0.5, sax + lean_a * up_a, side_a)
        low, high = _cut(low, high, sbx + lean_b * up_b, side_b)
        low, high = _cut(low, high, scx + lean_c * up_c, side_c)
        row_a, row_b, row_c = dax * up_a, dbx * up_b, dcx * up_c
        # The stretch is rounded: it is taken a little longer, and the edges themselves decide.
        for x in range(int(np.ceil(low - 0.5 - SLACK)), int(np.floor(high - 0.5 + SLACK)) + 1):
            px = x + 0.5
            ea = sa * (row_a - day * (px - sax))
            eb = sb * (row_b - dby * (px - sbx))
            ec = sc * (row_c - dcy * (px - scx))
            near = (ea * zi + eb * zj + ec * zk) * scale
            if near < inverse_depth[y, x] or ea < 0.0 or eb < 0.0 or ec < 0.0:
                continue
            # Of two that are equally near the lower number wins, in whatever order they are drawn.
            if near == inverse_depth[y, x] and f > face_map[y, x]:
                continue
            if (ea == 0.0 and not own_a) or (eb == 0.0 and not own_b) or (ec == 0.0 and not own_c):
                continue
            inverse_depth[y, x] = near
            face_map[y, x] = f


@kept(inline="always")
def corner_weights(screen, inverse_z, faces, f, px, py):
    """Perspective-correct weights of face f's corners at a pixel: those of the image, divided by z and normalised."""
    i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
    ax, ay, bx, by, cx, cy = (screen[i, 0], screen[i, 1], screen[j, 0], screen[j, 1], screen[k, 0], screen[k, 1])
    sign = 1.0 if (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) > 0.0 else -1.0
    sax, say, dax, day, sa = _edge(bx, by, cx, cy, sign)
    sbx, sby, dbx, dby, sb = _edge(cx, cy, ax, ay, sign)
    scx, scy, dcx, dcy, sc = _edge(ax, ay, bx, by, sign)
    wa = sa * (dax * (py - say) - day * (px - sax)) * inverse_z[i]
    wb = sb * (dbx * (py - sby) - dby * (px - sbx)) * inverse_z[j]
    wc = sc * (dcx * (py - scy) - dcy * (px - scx)) * inverse_z[k]
    total = wa + wb + wc
    scale = 1.0 / total
    return wa * scale, wb * scale, wc * scale


@kept(inline="always")
def weight_planes(screen, inverse_z, faces, f, px, py, planes):
    """What `corner_weights` divides by its sum, as a function of the place: planes (9,) of each corner its value at
    (px, py) and how it grows with a step along the row and down the column, in place."""
    i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
    ax, ay, bx, by, cx, cy = (screen[i, 0], screen[i, 1], screen[j, 0], screen[j, 1], screen[k, 0], screen[k, 1])
    sign = 1.0 if (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) > 0.0 else -1.0
    zi, zj, zk = sign * inverse_z[i], sign * inverse_z[j], sign * inverse_z[k]
    planes[0] = ((cx - bx) * (py - by) - (cy - by) * (px - bx)) * zi
    planes[1], planes[2] = (by - cy) * zi, (cx - bx) * zi
    planes[3] = ((ax - cx) * (py - cy) - (ay - cy) * (px - cx)) * zj
    planes[4], planes[5] = (cy - ay) * zj, (ax - cx) * zj
    planes[6] = ((bx - ax) * (py - ay) - (by - ay) * (px - ax)) * zk
    planes[7], planes[8] = (ay - by) * zk, (bx - ax) * zk


@kept()
def fill_weights(screen, inverse_z, faces, face_map, weights):
    """The weights (H, W, 3) of every pixel that sees a face, in place."""
    height, width = face_map.shape
    for y in range(height):
        for x in range(width):
            if face_map[y, x] >= 0:
                wa, wb, wc = corner_weights(screen, inverse_z, faces, face_map[y, x], x + 0.5, y + 0.5)
                weights[y, x, 0], weights[y, x, 1], weights[y, x, 2] = wa, wb, wc


@kept()
def project_points(points, viewmat, intrinsics, near, screen, inverse_z):
    """Pixels and 1 / z (0 where not in front of `near`) of points (V, 3), in place; False where one is not finite."""
    finite = True
    for n in range(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        finite = finite and np.isfinite(x + y + z)
        cx = viewmat[0, 0] * x + viewmat[0, 1] * y + viewmat[0, 2] * z + viewmat[0, 3]
        cy = viewmat[1, 0] * x + viewmat[1, 1] * y + viewmat[1, 2] * z + viewmat[1, 3]
        cz = viewmat[2, 0] * x + viewmat[2, 1] * y + viewmat[2, 2] * z + viewmat[2, 3]
        scale = 1.0 / cz if cz > near else 0.0
        cx, cy, one = cx * scale, cy * scale, cz * scale
        screen[n, 0] = intrinsics[0, 0] * cx + intrinsics[0, 1] * cy + intrinsics[0, 2] * one
        screen[n, 1] = intrinsics[1, 0] * cx + intrinsics[1, 1] * cy + intrinsics[1, 2] * one
        inverse_z[n] = scale
    return finite


@kept()
def interpolate_corners(face_map, weights, corners, table, out):
    height, width, channels = out.shape
    for y in range(height):
        for x in range(width):
            f = face_map[y, x]
            if f >= 0:
                i, j, k = corners[f, 0], corners[f, 1], corners[f, 2]
                wi, wj, wk = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
                for c in range(channels):
                    out[y, x, c] = wi * table[i, c] + wj * table[j, c] + wk * table[k, c]


@kept()
def turned_normals(points, faces, axes):
    """Area-weighted vertex normals, unit length, turned by axes (3, 3); see `geodiff.geometry.vertex_normals`."""
    normals = np.zeros((len(points), 3))
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
        vx, vy, vz = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1], points[k, 2] - points[i, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (i, j, k):
            normals[corner, 0] += nx
            normals[corner, 1] += ny
            normals[corner, 2] += nz
    turned = np.empty((len(points), 3), np.float32)
    for i in range(len(points)):
        x, y, z = normals[i, 0], normals[i, 1], normals[i, 2]
        scale = 1.0 / max(np.sqrt(x * x + y * y + z * z), 1e-12)
        for c in range(3):
            turned[i, c] = (axes[c, 0] * x + axes[c, 1] * y + axes[c, 2] * z) * scale
    return turned


@kept()
def mean_directions(face_map, screen, inverse_z, faces, vectors, supersample, out):
    """Mean direction of the unit vectors (V, 3) in each block of supersample x supersample samples, as long as the
    share that a face covers."""
    height, width, _ = out.shape
    for y in range(height):
        for x in range(width):
            sx = sy = sz = 0.0
            covered = 0
            for v in range(y * supersample, (y + 1) * supersample):
                for u in range(x * supersample, (x + 1) * supersample):
                    f = face_map[v, u]
                    if f >= 0:
                        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
                        wi, wj, wk = corner_weights(screen, inverse_z, faces, f, u + 0.5, v + 0.5)
                        a = wi * vectors[i, 0] + wj * vectors[j, 0] + wk * vectors[k, 0]
                        b = wi * vectors[i, 1] + wj * vectors[j, 1] + wk * vectors[k, 1]
                        c = wi * vectors[i, 2] + wj * vectors[j, 2] + wk * vectors[k, 2]
                        scale = 1.0 / max(np.sqrt(a * a + b * b + c * c), 1e-12)
                        sx, sy, sz = sx + a * scale, sy + b * scale, sz + c * scale
                        covered += 1
            if covered:
                share = covered / (supersample * supersample)
                scale = share / max(np.sqrt(sx * sx + sy * sy + sz * sz), 1e-12)
                out[y, x, 0], out[y, x, 1], out[y, x, 2] = sx * scale, sy * scale, sz * scale
