"""The rivals of SISE, one file per method, named like its function, its config and its paper.

Every explainer is ``baselines.<name>.<name>(probe, targets, *, ...)`` and is bound by
``configs/explainer/<name>.yaml``; the folder of configs is the registry. The functions are not re-exported here:
``sise.baselines.grad_cam`` must stay the module, or Hydra could not find ``sise.baselines.grad_cam.grad_cam`` in it.
"""
