"""SynthBench: synthetic people that nothing was trained on, and what a method makes of them beside the truth.

definition.py  who and what is shown: people, photographs, targets; the digest of the set
people.py      one person of the set: photograph, driving frames, true frames
observe.py     what a method is given of a person: by the tracker, or by the truth
tasks.py       the reenactment tasks: requests to a generator, its frames beside the true ones
expression.py  whether the expression latent is alive
clips.py       the avatar task: training clips of a person and the frames held out
scores.py      figures of every frame, and their means by task, view angle and expression
report.py      the tables as Markdown and JSON
sheet.py       a picture of what was compared
record.py      the recorded digest and portraits that a set is checked against
"""
