"""Many models at once: models whose settings differ only in numbers train together, stacked along a leading axis.

`settings` turns a grid, a list or distributions into training steps; `binding` finds the numbers in which steps differ;
`stack` trains models together; `run` is one model of a sweep, and `driver` keeps stacks filled; `sweep` and `result`
are the public interface.
"""
