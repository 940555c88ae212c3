"""What the expression changes beyond the head model: the surface (`deform`) and the Gaussians (`attributes`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from geodiff.errors import InputError
from geodiff.head.model import HeadModel
from geodiff.types import HeadParams
from recon.layers.attributes import AttributeConfig, AttributeNet, add_residuals
from recon.layers.codes import CodeSource
from recon.layers.deform import DeformConfig, DeformNet
from recon.layers.posing import FastHead
from recon.layers.rigged import Fields
from recon.layers.uv_remesh import GridMesh, remesh

#: Metres that become millimetres in regularisers.
_MILLIMETRES = 1000.0
#: Names under which the parts are stored.
_CODE, _NETS = "code.", ("deform", "attributes")


class Dynamics(nn.Module):
    """The refinements of one avatar that are networks; either may be absent.

    identity: parameters whose shape and static offsets the position map shows (without learnt residuals).
    """

    def __init__(
        self,
        head: HeadModel,
        identity: HeadParams,
        codes: CodeSource,
        deform: DeformConfig,
        attributes: AttributeConfig,
    ) -> None:
        super().__init__()
        self.codes = codes
        self.configs = deform, attributes
        self._identity = identity
        self.deform = DeformNet(deform, codes.tokens, codes.width) if deform.enabled else None
        self.attributes = AttributeNet(attributes, codes.tokens, codes.width) if attributes.enabled else None
        self._head = head
        self._still = head.zeros().replace(shape=identity.shape)
        self._fast = FastHead(head, identity.static_offset)
        self._grid: GridMesh | None = remesh(head, deform.grid) if deform.enabled else None
        low, high = head.template.amin(0), head.template.amax(0)
        self._middle, self._half = (low + high) / 2, float((high - low).max()) / 2
        self._joined = None if self._grid is None else self._grid.joined()

    def moved_to(self, device: torch.device | str) -> Dynamics:
        """The same on a device."""
        head, identity = self._head.to(device), self._identity.to(device)
        twin = Dynamics(head, identity, self.codes.to(device), *self.configs).to(device)
        twin.load_state_dict(self.state_dict())
        return twin.requires_grad_(False)

    @torch.no_grad()
    def position_map(self, params: HeadParams) -> Tensor:
        """(4, S, S) of one frame: surface points, about -1..1, and the mask. Only expression, jaw and eyes count."""
        assert self._grid is not None
        names = ("expr", "jaw_pose", "eyes_pose")
        moving = self._still.replace(**{name: getattr(params, name).detach() for name in names})
        vertices = (self._fast.vertices(moving) - self._middle) / self._half
        points = self._grid.points(vertices, self._head.faces)
        mask = (self._grid.face >= 0).to(points.dtype)[:, None]
        return torch.cat([points, mask], 1).T.reshape(4, self._grid.size, self._grid.size)

    def movement(self, positions: Tensor, code: Tensor) -> Tensor:
        """(S * S, 3) metres that the texels move."""
        assert self.deform is not None
        return self.deform(positions, code)

    def at_vertices(self, movement: Tensor) -> Tensor:
        """(V, 3) metres that the head's vertices move."""
        assert self._grid is not None
        return self._grid.at_vertices(movement)

    def roughness(self, movement: Tensor) -> Tensor:
        """Mean square difference of texels that kept faces join, square millimetres."""
        assert self._joined is not None and self._grid is not None
        field = _MILLIMETRES * movement.view(self._grid.size, -1, 3)
        right, below = self._joined
        across = (field[:, 1:] - field[:, :-1]) * right[..., None]
        down = (field[1:] - field[:-1]) * below[..., None]
        return (across.square().sum() + down.square().sum()) / (right.sum() + below.sum())

    def size_of(self, movement: Tensor) -> Tensor:
        """Mean square movement, square millimetres."""
        return (_MILLIMETRES * movement).square().sum(-1).mean()

    def changed(self, fields: Fields, latents: Tensor, known: Tensor, code: Tensor) -> tuple[Fields, Tensor]:
        """Fields with the expression's residuals, and the outputs (N, 14) behind them.

        latents: (N, d). known: (N,) bool, which Gaussians were seen in fitting; the others never change.
        """
        assert self.attributes is not None
        outputs = self.attributes(latents, code) * known[:, None]
        return add_residuals(fields, outputs), outputs

    def tensors(self) -> dict[str, Tensor]:
        """What the avatar's file must hold."""
        found = {f"{_CODE}{name}": value for name, value in self.codes.tensors().items()}
        found["identity.shape"] = self._identity.shape
        return {**found, **{name: value.detach() for name, value in self.state_dict().items()}}

    def adopt(self, tensors: dict[str, Tensor], origin: object) -> None:
        """Takes over networks of `tensors`. Raises InputError where they do not fit the configuration."""
        own = {name: value for name, value in tensors.items() if name.startswith(_NETS)}
        try:
            self.load_state_dict(own)
        except RuntimeError as error:
            raise InputError(
                f"{origin} must hold the networks that avatar.json describes, and it does not: reconstruct it again"
            ) from error


@dataclass(frozen=True)
class Learnt:
    """Networks of a fitted avatar, with what they need to know of each Gaussian.

    latents: (N, d), known: (N,) bool; None without attribute residuals.
    """

    dynamics: Dynamics
    latents: Tensor | None = None
    known: Tensor | None = None

    def to(self, device: torch.device | str) -> Learnt:
        parts = (None if part is None else part.to(device) for part in (self.latents, self.known))
        return Learnt(self.dynamics.moved_to(device), *parts)

    def tensors(self) -> dict[str, Tensor]:
        """What the avatar's file must hold."""
        parts = {"latents": self.latents, "known": self.known}
        return {**self.dynamics.tensors(), **{k: v for k, v in parts.items() if v is not None}}

    def pose(
        self, head: FastHead, fields: Fields, tracked: HeadParams, params: HeadParams, latent: Tensor | None
    ) -> tuple[Tensor, Fields]:
        """Posed vertices (V, 3) and fields of one frame.

        tracked: what networks were driven by in fitting, without corrections. params: what the head is posed by.
        latent: (tokens, width) of the encoder, or None.
        """
        dynamics, moved = self.dynamics, None
        code = dynamics.codes.code(tracked, latent)
        if dynamics.deform is not None:
            moved = dynamics.at_vertices(dynamics.movement(dynamics.position_map(tracked), code))
        if dynamics.attributes is not None and self.latents is not None and self.known is not None:
            fields, _ = dynamics.changed(fields, self.latents, self.known, code)
        return head.vertices(params, moved), fields


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of an avatar's file. Raises InputError where it is missing or damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} must hold the avatar's networks, and it is missing or damaged: reconstruct the avatar again"
        ) from error


def read_learnt(
    tensors: dict[str, Tensor], head: HeadModel, identity: HeadParams, deform: DeformConfig,
    attributes: AttributeConfig, origin: Path,
) -> Learnt:  # fmt: skip
    """The networks of an avatar's file. Raises InputError where they do not fit the configuration."""
    try:
        codes = CodeSource.of({k[len(_CODE) :]: v for k, v in tensors.items() if k.startswith(_CODE)})
        still = identity.replace(shape=tensors["identity.shape"])
    except KeyError as error:
        raise InputError(f"{origin} must hold {error}, and it does not: reconstruct the avatar again") from error
    dynamics = Dynamics(head, still, codes, deform, attributes)
    dynamics.adopt(tensors, origin)
    return Learnt(dynamics.requires_grad_(False), tensors.get("latents"), tensors.get("known"))
