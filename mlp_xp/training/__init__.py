"""The trainer and the parts of a run: epochs, callbacks, checks, early stopping.

From `Trainer.fit` to a step: `trainer` calls `inputs` (arguments and data), `run` (the state between epochs) and
`epoch` (a loop of compiled steps), and returns a `history`. `ranks` are the processes of a run; `callbacks` and Ctrl-C
can end it. The other files are used only where they are needed: `early_stopping`, `divergence` (NaN), `lr_finder`,
`loggers`, and for groups of processes `group_ranks` and `messages`.
"""
