"""Runs of `sacjax.stages` that share what they compile, and draw no report."""

import json

from sacjax import report, stages
from sacjax.train.trainer import make_trainer

_trainers = {}
GROUPS = ("augment", "frontend", "model", "objective", "optimizer")


def shared_trainer(objective, stage, mesh, steps, seed, pretrained=None):
    """Returns `make_trainer`'s for a stage: one for all runs that differ in their data alone."""
    if pretrained is not None:
        return make_trainer(objective, stage, mesh, steps, seed, pretrained)
    data, train = (stage[group].to_dict() for group in ("data", "train"))
    told = {group: stage[group].to_dict() for group in GROUPS}
    told |= {name: data[name] for name in ("sample_rate", "seconds", "multi_label")}
    told |= {name: train[name] for name in ("batch_size", "log_every")}
    key = json.dumps(told, default=str), objective.class_names, mesh, steps, seed
    if key not in _trainers:
        _trainers[key] = make_trainer(objective, stage, mesh, steps, seed)
    return _trainers[key]


def share_trainers(monkeypatch, reports=False):
    """Makes `stages.run` quicker: it compiles the same once, and draws only where `reports`."""
    monkeypatch.setattr(stages, "make_trainer", shared_trainer)
    if not reports:
        monkeypatch.setattr(report, "write", lambda *args: None)
