"""Many models at once: models whose settings differ in numbers train together, as one model with an axis in front.

`settings` turns a grid, a list or distributions into training steps; `binding` finds the numbers in which steps differ;
`stack` trains models together, and `team` keeps a stack filled; `tasks` divides models among processes; `run` is one
model of a sweep, and `driver` measures those of a group; `sweep` and `result` are the public part.
"""
