"""The picture of a dressed head: what each sample sees, lit and averaged into pixels, in one pass (numba).

Paint is found for every sample, places and normals for every face that a pixel sees; what lies on the same smooth piece
of surface is then lit together, once. `tests/plain_render.py` lights every sample, in plain numpy, and finds the same
picture.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geodiff.raster import mesh
from geodiff.raster.compiled import kept
from geodiff.raster.mesh_kernels import weight_planes
from geodiff.synth.light import Lamps, hair_light, lamp_light, sky_light
from geodiff.types import Camera

#: The bit of `Surface.layer` that tells hair, whose normals are not those of its triangles.
HAIR = 128
#: Pieces of surface that a pixel may see; more are lit with the last.
PIECES = 4
#: How far apart (metres squared) and how differently turned (cosine) the surface of one piece may be within a pixel.
PIECE_WIDTH, PIECE_TURN = 0.006**2, 0.9


class Surface(NamedTuple):
    """What is drawn.

    face: (H s, W s) int32 the nearest face of each sample, -1 for none. screen: (N, 2) pixels, inverse_z: (N,) of the
    vertices. faces: (M, 3) int32. table: (N, 9) float32 place, normal, occlusion, shininess and folding of the
    vertices. layer: (M,) uint8, what each face belongs to, HAIR added where it is hair. uvs: (M, 3, 2) places in
    `texture` (h, w, 4), linear colour and the depth of wrinkles.
    """

    face: np.ndarray
    screen: np.ndarray
    inverse_z: np.ndarray
    faces: np.ndarray
    table: np.ndarray
    layer: np.ndarray
    uvs: np.ndarray
    texture: np.ndarray


@kept(inline="always")
def _add_texel(texture, u, v, out):  # noqa: ANN001, ANN202
    """Add the bilinear sample of a texture at a place in 0..1 to out (4,)."""
    height, width = texture.shape[0], texture.shape[1]
    x = min(max(u * width - 0.5, 0.0), width - 1.0)
    y = min(max(v * height - 0.5, 0.0), height - 1.0)
    column, row = min(int(x), width - 2), min(int(y), height - 2)
    fx, fy = np.float32(x - column), np.float32(y - row)
    lower_right = fx * fy
    lower_left, upper_right = fy - lower_right, fx - lower_right
    upper_left = np.float32(1) - fx - lower_left
    upper, lower = texture[row, column : column + 2], texture[row + 1, column : column + 2]
    for c in range(4):
        out[c] += (
            upper_left * upper[0, c]
            + upper_right * upper[1, c]
            + (lower_left * lower[0, c] + lower_right * lower[1, c])
        )


@kept(fastmath=True, error_model="numpy")
def _color(point, hair, eye, lamps, spin, color):  # noqa: ANN001, ANN202
    """The colour in the picture of a point (16,), a row of the table, a texel and the way hair runs, into color (3,).

    hair: whether it is some. eye: (3,). spin: turns the pattern of shadow tests.
    """
    vx, vy, vz = eye[0] - point[0], eye[1] - point[1], eye[2] - point[2]
    length = 1 / np.sqrt(vx * vx + vy * vy + vz * vz + np.float32(1e-18))
    vx, vy, vz = vx * length, vy * length, vz * length
    length = 1 / np.sqrt(point[3] ** 2 + point[4] ** 2 + point[5] ** 2 + np.float32(1e-18))
    nx, ny, nz = point[3] * length, point[4] * length, point[5] * length
    length = 1 / np.sqrt(point[13] ** 2 + point[14] ** 2 + point[15] ** 2 + np.float32(1e-18))
    tx, ty, tz = point[13] * length, point[14] * length, point[15] * length
    red, green, blue = sky_light(lamps, nx, ny, nz)
    red, green, blue = red * point[6], green * point[6], blue * point[6]
    glint_red = glint_green = glint_blue = np.float32(0)
    for number in range(lamps.directions.shape[0]):
        if hair:
            diffuse, glint = hair_light(lamps, number, point, tx, ty, tz, nx, ny, nz, vx, vy, vz, spin)
        else:
            diffuse, glint = lamp_light(lamps, number, point, nx, ny, nz, vx, vy, vz, spin)
        red += lamps.colors[number, 0] * diffuse
        green += lamps.colors[number, 1] * diffuse
        blue += lamps.colors[number, 2] * diffuse
        glint_red += lamps.colors[number, 0] * glint
        glint_green += lamps.colors[number, 1] * glint
        glint_blue += lamps.colors[number, 2] * glint
    unfolded = 1 - min(max(point[8] * point[12], np.float32(0)), np.float32(0.6))
    seen = unfolded if hair else np.float32(1)
    color[0] = lamps.gain[0] * (point[9] * unfolded * red + seen * glint_red)
    color[1] = lamps.gain[1] * (point[10] * unfolded * green + seen * glint_green)
    color[2] = lamps.gain[2] * (point[11] * unfolded * blue + seen * glint_blue)
    last = lamps.curve.shape[0] - 1
    for c in range(3):
        color[c] = lamps.curve[int(min(max(color[c], np.float32(0)), np.float32(1)) * last)]


@kept(inline="always")
def _gather(surface, row, column, supersample, met, weights, paint, planes):  # noqa: ANN001, ANN202
    """Number of the faces that a pixel sees. met: (S, 2) each of them and its samples, weights: (S, 3) the sums of its
    corners' weights, paint: (S, 4) of its texels and planes: (S, 9) as `mesh_kernels.weight_planes`, in place."""
    count = 0
    left, top = column * supersample + 0.5, row * supersample + 0.5
    for down in range(supersample):
        for right in range(supersample):
            f = surface.face[row * supersample + down, column * supersample + right]
            if f < 0:
                continue
            n = count - 1
            while n >= 0 and met[n, 0] != f:
                n -= 1
            if n < 0:
                n, count = count, count + 1
                met[n, 0], met[n, 1] = f, 0
                weights[n, 0] = weights[n, 1] = weights[n, 2] = 0
                paint[n, 0] = paint[n, 1] = paint[n, 2] = paint[n, 3] = 0
                weight_planes(surface.screen, surface.inverse_z, surface.faces, f, left, top, planes[n])
            plane = planes[n]
            wa = plane[0] + plane[1] * right + plane[2] * down
            wb = plane[3] + plane[4] * right + plane[5] * down
            wc = plane[6] + plane[7] * right + plane[8] * down
            scale = 1.0 / (wa + wb + wc)
            a, b, c = np.float32(wa * scale), np.float32(wb * scale), np.float32(wc * scale)
            met[n, 1] += 1
            weights[n, 0] += a
            weights[n, 1] += b
            weights[n, 2] += c
            u = a * surface.uvs[f, 0, 0] + b * surface.uvs[f, 1, 0] + c * surface.uvs[f, 2, 0]
            v = a * surface.uvs[f, 0, 1] + b * surface.uvs[f, 1, 1] + c * surface.uvs[f, 2, 1]
            _add_texel(surface.texture, u, v, paint[n])
    return count


@kept(inline="always")
def _mean_sample(surface, f, weights, paint, samples, eye, out):  # noqa: ANN001, ANN202
    """What a pixel's samples of face f see on average, into out (16,): a row of the table (linear in the weights),
    its normal brought to the camera's side (both sides of sheets and of hair are seen), the texel, and the way along
    which hair runs."""
    share = np.float32(1) / samples
    a, b, c = share * weights[0], share * weights[1], share * weights[2]
    i, j, k = surface.faces[f, 0], surface.faces[f, 1], surface.faces[f, 2]
    for n in range(9):
        out[n] = a * surface.table[i, n] + b * surface.table[j, n] + c * surface.table[k, n]
    for n in range(4):
        out[9 + n] = share * paint[n]
    root, tip = min(i, k), max(i, k)
    for n in range(3):
        out[13 + n] = surface.table[tip, n] - surface.table[root, n]
    vx, vy, vz = eye[0] - out[0], eye[1] - out[1], eye[2] - out[2]
    facing = out[3] * vx + out[4] * vy + out[5] * vz
    if facing < 0:
        twice = np.float32(0)
        if surface.layer[f] & HAIR:
            # Mirrored: what looks aside changes little as it turns away.
            twice = 2 * facing / (vx * vx + vy * vy + vz * vz)
        else:
            out[3], out[4], out[5] = -out[3], -out[4], -out[5]
        out[3], out[4], out[5] = out[3] - twice * vx, out[4] - twice * vy, out[5] - twice * vz


@kept(inline="always")
def _piece(first, layers, count, sample, layer):  # noqa: ANN001, ANN202
    """Number of the piece that a face's mean sample (16,) belongs to, `count` for a new one. first: (PIECES, 16) the
    first sample of each piece found so far, layers: (PIECES,) what they belong to."""
    for g in range(count):
        dx, dy, dz = sample[0] - first[g, 0], sample[1] - first[g, 1], sample[2] - first[g, 2]
        turn = sample[3] * first[g, 3] + sample[4] * first[g, 4] + sample[5] * first[g, 5]
        if layers[g] == layer and turn > PIECE_TURN and dx * dx + dy * dy + dz * dz < PIECE_WIDTH:
            return g
    return min(count, PIECES - 1)


@kept(fastmath=True, error_model="numpy")
def _render_kernel(surface, lamps, eye, supersample, image, normals, coverage):  # noqa: ANN001, ANN202
    """Mean colours, mean normals (world) and covered share of each pixel, in place."""
    sample, color = np.empty(16, np.float32), np.empty(3, np.float32)
    first, total = np.empty((PIECES, 16), np.float32), np.empty((PIECES, 16), np.float32)
    layers, members = np.empty(PIECES, np.uint8), np.empty(PIECES, np.int64)
    samples = supersample * supersample
    met, weights = np.empty((samples, 2), np.int64), np.empty((samples, 3), np.float32)
    paint, planes = np.empty((samples, 4), np.float32), np.empty((samples, 9))
    share = np.float32(1.0 / samples)
    height, width = coverage.shape
    for row in range(height):
        for column in range(width):
            count = 0
            for k in range(_gather(surface, row, column, supersample, met, weights, paint, planes)):
                f, size = met[k, 0], np.float32(met[k, 1])
                _mean_sample(surface, f, weights[k], paint[k], size, eye, sample)
                g = _piece(first, layers, count, sample, surface.layer[f])
                if g == count:
                    layers[g], members[g] = surface.layer[f], 0
                    count += 1
                    for n in range(16):
                        first[g, n], total[g, n] = sample[n], np.float32(0)
                members[g] += met[k, 1]
                for n in range(16):
                    total[g, n] += size * sample[n]
            for g in range(count):
                coverage[row, column] += share * members[g]
                for n in range(3):
                    normals[row, column, n] += share * total[g, 3 + n]
                for n in range(16):
                    sample[n] = total[g, n] / members[g]
                _color(sample, layers[g] & HAIR, eye, lamps, (column * 73856093) ^ (row * 19349663) ^ g, color)
                for n in range(3):
                    image[row, column, n] += share * members[g] * color[n]


def render(
    points: np.ndarray,
    faces: np.ndarray,
    table: np.ndarray,
    layer: np.ndarray,
    uvs: np.ndarray,
    texture: np.ndarray,
    lamps: Lamps,
    camera: Camera,
    supersample: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours (H, W, 3) on black, normals (H, W, 3) in the world, both means over each pixel's samples, those that see
    nothing counting as 0, and the share of samples that see something (H, W), all float32.

    points: (N, 3) vertices. faces, table, layer, uvs, texture: as `Surface`. supersample: samples along each side of a
    pixel.
    """
    fine = camera.resized(camera.width * supersample, camera.height * supersample)
    seen = mesh.visible(points, faces, fine)
    surface = Surface(seen.face, seen.screen, seen.inverse_z, seen.faces, table, layer, uvs, texture)
    shape = (camera.height, camera.width)
    image, normals = np.zeros((*shape, 3), np.float32), np.zeros((*shape, 3), np.float32)
    coverage = np.zeros(shape, np.float32)
    _render_kernel(surface, lamps, camera.center.numpy(), supersample, image, normals, coverage)
    return image, normals, np.minimum(coverage, 1.0)
