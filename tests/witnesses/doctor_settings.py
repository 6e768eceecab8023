"""The doctor's configuration for tests."""

from hydra import compose


def settings(tmp_path, *overrides):
    """configs/doctor.yaml with nothing of this machine's data."""
    nowhere = [f"roots.{name}={tmp_path}/no/{name}" for name in ("voc2007", "coco2014", "severstal", "hmt", "mnist1d")]
    places = [f"outputs={tmp_path}/outputs", f"results={tmp_path}/results", "device=cpu"]
    return compose("doctor", [*nowhere, *places, *overrides])
