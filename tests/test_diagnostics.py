"""What a step's embeddings report, on one device and on eight; the gradient-variance study and its command."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vl_convert
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from spectral_jax._errors import ConfigError
from spectral_jax.config import load_config
from spectral_jax.studies import variance_page
from spectral_jax.studies.gradient_variance import conduct, gradient_variance
from spectral_jax.training.diagnostics import diagnostics
from spectral_jax.training.run import open_run

report_of = jax.jit(functools.partial(diagnostics, temperature=0.2))


@pytest.fixture(scope="module")
def pair():
  rng = np.random.default_rng(0)
  u = rng.normal(size=(32, 8)) * np.linspace(0.2, 2, 8)
  return jnp.asarray(3 * u, jnp.float32), jnp.asarray(u + 0.3 * rng.normal(size=u.shape), jnp.float32)


def test_report_against_plain_formulas(pair):
  u, v = pair
  report = {key: float(value) for key, value in report_of(u, v).items()}
  unit = lambda x: np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
  both = np.concatenate([unit(u), unit(v)])
  p = np.linalg.eigvalsh(both.T @ both / 64)
  assert report["band_lower"] <= report["band_value"] <= report["band_upper"]
  np.testing.assert_allclose(report["band_upper_ratio"], np.sqrt(report["band_upper"] / report["band_value"]),
                             rtol=1e-5)
  np.testing.assert_allclose(report["top_eigenvalue"], p[-1], rtol=1e-4)
  np.testing.assert_allclose(report["effective_rank"], np.exp(-(p * np.log(p)).sum()), rtol=1e-4)
  np.testing.assert_allclose(report["effective_rank_participation"], 1 / (p ** 2).sum(), rtol=1e-4)
  apart = np.sum((unit(u)[:, None] - unit(u)[None]) ** 2, axis=-1)[np.triu_indices(32, 1)]
  np.testing.assert_allclose(report["uniformity"], np.log(np.mean(np.exp(-2 * apart))), rtol=1e-5)  # of u, not of v
  np.testing.assert_allclose(report["alignment"], np.mean(np.sum((unit(u) - unit(v)) ** 2, axis=1)), rtol=1e-4)
  e = np.exp(unit(u) @ unit(v).T / 0.2)
  q = 1 - np.diag(e) / e.sum(1)
  w = e * (1 - np.eye(32)) / (e.sum(1) - np.diag(e))[:, None]
  np.testing.assert_allclose(report["vanished_share"], np.mean(q < 0.01), atol=1e-6)
  np.testing.assert_allclose(report["effective_negatives"], np.mean(1 / (w ** 2).sum(1)), rtol=1e-4)
  measured = np.mean(np.sum(((w * q[:, None]) @ unit(v) - q[:, None] * unit(v)) ** 2, axis=1)) / 0.04
  np.testing.assert_allclose(report["band_value"], measured, rtol=1e-4)


def test_an_anchor_has_vanished_by_its_q_not_by_its_gradient():
  u = np.eye(32)
  v = u + 0.05 * np.random.default_rng(0).normal(size=u.shape)
  e = np.exp(u @ (v / np.linalg.norm(v, axis=1, keepdims=True)).T / 0.12)
  q = 1 - np.diag(e) / e.sum(1)
  assert 0 < np.mean(q < 0.01) < 1 and not (q / 0.12 < 0.01).any()
  report = diagnostics(jnp.asarray(u, jnp.float32), jnp.asarray(v, jnp.float32), temperature=0.12)
  np.testing.assert_allclose(report["vanished_share"], np.mean(q < 0.01), atol=1e-6)


def test_eight_devices_report_what_one_does(pair):
  mesh = Mesh(np.asarray(jax.devices()[:8]), ("data",))
  rows = NamedSharding(mesh, PartitionSpec("data"))
  one, eight = report_of(*pair), report_of(*jax.device_put(pair, (rows, rows)))
  for key, value in one.items():
    np.testing.assert_allclose(eight[key], value, rtol=1e-4, err_msg=key)


def test_collapsed_and_empty_batches_report_finite_numbers():
  for x in (jnp.ones((4, 3)), jnp.zeros((4, 3))):
    assert all(bool(jnp.isfinite(value)) for value in diagnostics(x, x, temperature=0.2).values())


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
  """The study's folder and what it has left there, after a glance."""
  config = load_config("digits")
  config.update_from_flattened_dict({"batch_size": 64, "model.width": 0.25, "model.projector_hidden": 32,
                                     "model.projector_dim": 16})
  folder = tmp_path_factory.mktemp("studied") / "new"
  return folder, config, conduct(config, "digits", folder, batches=3, train_steps=1)


def test_gradient_variance_study(studied):
  folder, config, content = studied
  assert list(content["results"]) == ["after 0 steps", "after 1 step"]
  for rows in content["results"].values():
    assert rows["none"]["variance_ratio"] == rows["none"]["predicted_ratio"] == 1
    assert all(np.isfinite(value) and value > 0 for row in rows.values() for value in row.values())
  assert json.loads((folder / "variance.json").read_text()) == content
  assert (folder / "variance.png").stat().st_size > 1000
  assert "zca" in (folder / "variance.txt").read_text()
  run = open_run(config)
  with pytest.raises(ValueError, match="batches must be at least 2"):
    gradient_variance(run, None, batches=1)
  with pytest.raises(ValueError, match="methods must hold ''"):
    gradient_variance(run, None, methods=("zca",))
  config.seed = 1
  with pytest.raises(ConfigError, match="holds a run with another config"):
    conduct(config, "digits", folder, batches=3, train_steps=1)


def test_its_page_is_made_again_from_its_numbers_byte_for_byte(studied, tmp_path):
  folder, _, content = studied
  page = (folder / "report.html").read_text()
  assert variance_page.write(tmp_path / "again.html", folder).read_text() == page
  [specification] = re.findall(r'class="chart">(.*?)</script>', page)
  bars = [row["ratio"] for row in json.loads(specification)["data"]["values"]]
  zca = [rows["zca"] for rows in content["results"].values()]
  assert bars == [float(f"{row[key]:.4g}") for row in zca for key, _ in variance_page.RATIOS]
  assert vl_convert.vegalite_to_vega(json.loads(specification))["marks"]
  assert "whitening lowers" in page and content["about"]["setting"].rstrip(".") in page
