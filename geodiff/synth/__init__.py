"""Synthetic heads with ground truth, and training samples made from them under the conditions of use.

noise.py       seamless noise in space
appearance.py  random colours, painted into the head's UV layout
layers.py      meshes with textures over the head's own, joined into one
strands.py     locks of hair: how they grow, fall, curl and lie
hair.py        hair styles made of a close shell and locks
wear.py        glasses, hats and clothes
backdrop.py    what stands behind a person in a photograph
light.py       random light, area lamps and their shadows
render.py      the picture of a dressed head
motion.py      random expressions and gaze
subject.py     one synthetic person: frames, masks and normals in any camera
portraits.py   photographs of known heads, to measure a tracker on
samples.py     references, targets and their conditions
shards.py      samples on disk
"""
