"""Asked to stop at any moment, a run leaves with its exit code and ends, resumed, as if it had not been asked."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from spectral_jax import preemption
from tests import runs

TERM, INT = signal.SIGTERM, signal.SIGINT
# Batches of 240 of 1,437 digits: an epoch has 5 steps; the first choice is made in epoch 1, for epoch 2.
SETTINGS = {
    "batch_size": 240, "steps": 17, "log_every": 3, "diagnostics_every": 0, "eval_every_epochs": 2,
    "checkpoint.every_steps": 7, "checkpoint.keep": 2, "optimizer.warmup_epochs": 0, "model.width": 0.125,
    "model.projector_hidden": 8, "model.projector_dim": 8, "eval.knn_limit": 200, "eval.test_limit": 50,
    "selection.rule": "greedy", "selection.candidates": 16, "bank.refresh_epochs": 1}
# What is called when the signal comes, how often it has been by then in that process, and the signal.
MOMENTS = (
    ("spectral_jax.workdir.logs:Log.add", 4, TERM),                                # step 4, off any boundary
    ("spectral_jax.progress:bar(embedding)", 1, INT),                              # bank refresh
    ("spectral_jax.training.batches.planner:chosen_table", 1, TERM),               # selection
    ("spectral_jax.progress:bar(encoding)", 2, TERM),                              # evaluation
    ("spectral_jax.workdir.checkpoints:save", 1, INT))                             # saving


@pytest.fixture(scope="module")
def whole(forge, tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole")
  code, said = forge.run(*runs.flags(SETTINGS, folder), entry="train")
  assert code == 0, said
  return runs.left(folder)


def test_preempted_at_every_moment_it_ends_with_the_same_bits(forge, whole, tmp_path):
  for moment in MOMENTS:
    code, said = forge.run(*runs.flags(SETTINGS, tmp_path), entry="train", at=moment)
    assert code == preemption.EXIT_CODE, (moment, said)
    assert "Stopping: saving a checkpoint" in said and "the same command goes on" in said
  code, said = forge.run(*runs.flags(SETTINGS, tmp_path), entry="train")
  assert code == 0, said
  runs.assert_same(runs.left(tmp_path), whole)
