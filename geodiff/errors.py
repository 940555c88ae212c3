"""The few exceptions a user can meet.

Every message states the rule, what was found and the remedy, in one sentence where possible. The command line prints
the message without a traceback and exits with 2.
"""

from __future__ import annotations


class UserError(Exception):
    """The user's input is wrong. `str(error)` is the sentence that the user reads; exit code 2."""


class InputError(UserError):
    """A file that was given cannot be used (missing, truncated, of the wrong kind or size)."""


class ConfigError(UserError):
    """An unknown preset, method or configuration key, or a value outside its range."""


class FaceError(UserError):
    """No usable face was found in an image."""


class ClipSetError(UserError):
    """A clip set is missing, half-written or inconsistent."""


class HeadModelError(UserError):
    """A head model cannot be loaded, or another head model than the one recorded was given."""


class AssetError(UserError):
    """Weights or other assets are missing or do not match their recorded hash."""


class StorageError(UserError):
    """The disk is full or the output folder cannot be written."""


class MissingDependencyError(UserError):
    """An optional package is needed for what was asked; the message says how to install it."""
