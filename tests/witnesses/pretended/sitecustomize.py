"""Read by every interpreter whose path begins with this folder: gives it a pretended card, see ../pretend_gpu.py."""

import os

if "PRETEND_GPU" in os.environ:
    import sise.benchmark  # noqa: F401, I001  before torch, which reads what it sets in the environment
    import pretend_gpu

    CARD = pretend_gpu.card(int(os.environ["PRETEND_GPU"]) or None)
    CARD.__enter__()  # to the end of the process
