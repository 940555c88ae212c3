"""Synthetic heads with ground truth, and training samples made from them under the conditions of use.

noise.py       seamless noise in space
appearance.py  random colours, painted into the head's UV layout
hair.py        hair as a surface that stands off the skull
light.py       random light, area lamps and their shadows
render.py      the picture of a dressed head
motion.py      random expressions and gaze
subject.py     one synthetic person: frames, masks and normals in any camera
fitting.py     another head fitted to a subject, with a tracker's errors
samples.py     references, targets and their conditions
shards.py      samples on disk
"""
