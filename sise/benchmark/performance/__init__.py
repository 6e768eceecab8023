"""How long things take, beside bare forward passes and other packages."""
