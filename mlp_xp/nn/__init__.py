"""The math: layers, losses, optimizers and the training step, written against ``xp`` alone."""
