"""The trainer and what belongs to a run: epochs, callbacks, checks, early stopping.

From `Trainer.fit` to a step: `trainer` calls `inputs` (arguments and data), `run` (what lasts from epoch to epoch) and
`epoch` (a loop of compiled steps), and returns a `history`. `ranks` are the processes of a run, `callbacks` and Ctrl-C
may end it. The other files are entered only where they are needed: `early_stopping`, `divergence` (NaN), `lr_finder`,
`loggers`, and for groups of processes `group_ranks` and `messages`.
"""
