"""Figures that say how good frames are.

image.py, perceptual.py: colours. geometry.py: normals and outlines. motion.py, identity.py: faces. video.py: time.
views.py: several views of one moment. registry.py holds every metric by name, measurement.py takes frames and ends in a
table. What cannot be measured says why; nothing else is given under the same name.
"""
