"""A head of one person: the identity folded into the template, so that posing it is cheap."""

from __future__ import annotations

from dataclasses import replace

import torch

from geodiff.head.model import HeadModel
from geodiff.types import HeadParams


def personal_head(head: HeadModel, params: HeadParams, offsets: bool = True) -> HeadModel:
    """The head with an identity folded into its template, so that posing it costs no sum over shape modes.

    Its joints are those of the head without static offsets; its parameters have neither shape nor offsets (see
    `without_identity`).
    """
    template = head.shaped(params.frame(0), expression=False, offsets=False)[0]
    moved = template if not offsets or params.static_offset is None else template + params.static_offset
    return _PersonalHead.from_parts(head, moved, head.joints(params))


class _PersonalHead(HeadModel):
    """A head of one identity: no shape modes, fixed joints."""

    _rest_joints: torch.Tensor

    @staticmethod
    def from_parts(head: HeadModel, template: torch.Tensor, joints: torch.Tensor) -> _PersonalHead:
        base = replace(head, template=template, shape_basis=head.shape_basis[:0])
        personal = object.__new__(_PersonalHead)
        for name in base.__dataclass_fields__:
            object.__setattr__(personal, name, getattr(base, name))
        object.__setattr__(personal, "_rest_joints", joints)
        return personal

    def joints(self, params: HeadParams) -> torch.Tensor:
        return self._rest_joints


def without_identity(params: HeadParams) -> HeadParams:
    """Frame 0 of `params` for a personal head."""
    return params.frame(0).replace(shape=params.shape[:0], static_offset=None)
