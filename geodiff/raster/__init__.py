"""Rasterisers: triangle meshes (`mesh`) and 3D Gaussians (`gaussians`, with backends)."""
