"""From a clip set to an avatar, and from an avatar to pictures."""
