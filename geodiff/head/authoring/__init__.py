"""How the builtin head is made: from named landmarks to a mesh with bases, skinning and UVs."""
