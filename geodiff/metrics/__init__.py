"""Figures that say how good a render is: image.py for colours, geometry.py for normals and outlines."""
