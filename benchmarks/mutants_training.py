"""Bugs for benchmarks/mutants.py: newer losses, drift, comparison of representations, training, checkpoints, probes."""

GLOBAL = "tests/test_global_loss.py"
LOOPS = "tests/test_losses.py -k slow_loops or per_anchor or masks or hardness or learnable"
SIMILARITY = "tests/test_similarity.py -k dense_float64 or far_batches or spearman or mutual or merge"
DRIFT = "tests/test_drift_bounds.py"
COLLAPSE = "tests/test_collapse.py"
STEP = "tests/test_step.py"
MICROBATCH = "tests/test_microbatch.py -k gradient or statistics"
OPTIMIZER = "tests/test_optimizer.py"
PLANNER = "tests/test_planner.py -k bank or epochs or average or said"
CHECKPOINTS = "tests/test_checkpoints.py"
EVALUATION = "tests/test_evaluation.py"
STREAM = "tests/test_stream.py"
COUPLED = "tests/test_coupled.py"
DIAGNOSTICS = "tests/test_diagnostics.py -k plain or collapsed or vanished"
RULES = "tests/test_selection_rules.py"

L, M, T, B = "spectral_jax/losses/", "spectral_jax/metrics/", "spectral_jax/training/", "spectral_jax/bounds/"
E = "spectral_jax/evaluation/"

MUTANTS = [
    # Losses that remember, correct and weigh.
    (L + "_global.py", "jnp.logaddexp(kept + old, jnp.log(gamma) + fresh)", "jnp.logaddexp(old, jnp.log(gamma) + fresh)", GLOBAL),
    (L + "_global.py", "jnp.where(old == -jnp.inf, fresh, ", "jnp.where(old == -jnp.inf, jnp.log(gamma) + fresh, ", GLOBAL),
    (L + "_global.py", 'count = _common.count_negatives(views, axis_name) * (1.0 if negatives == "both" else 0.5)',
     "count = _common.count_negatives(views, axis_name)", GLOBAL),
    (L + "_global.py", "ratio = jnp.exp(estimate - lax.stop_gradient(new))", "ratio = jnp.exp(estimate - fresh)", GLOBAL),
    (L + "_global.py", "jnp.where(counted, lax.stop_gradient(new), old)", "lax.stop_gradient(new)", GLOBAL),
    (L + "_hard.py", "tilted, weights = log_sums(1.0 + beta), log_sums(beta)", "tilted, weights = log_sums(beta), log_sums(beta)",
     LOOPS),
    (L + "_hard.py", "least = log_count - root * root", "least = log_count - root", LOOPS),
    (L + "_hard.py", "jnp.maximum(energy + log_rest - jnp.log1p(-prior), least)", "jnp.maximum(energy + log_rest, least)", LOOPS),
    (L + "_hard.py", "gap = energy - positive - jnp.log(jnp.where(biased, prior, 1.0))", "gap = energy - positive", LOOPS),
    (L + "_hard.py", "debias(jnp.where(some, energies, 0.0), positive + log_count, prior, least)",
     "debias(jnp.where(some, energies, 0.0), positive, prior, least)", LOOPS),
    # Drift and comparison.
    (B + "drift.py", "_log1p_ratio(same - 1, labels.shape[0] - same, temperature)",
     "_log1p_ratio(same, labels.shape[0] - same, temperature)", DRIFT),
    (B + "drift.py", "_log1p_ratio(largest, jnp.sum(counts) - largest, temperature)",
     "_log1p_ratio(jnp.mean(counts), jnp.sum(counts) - largest, temperature)", DRIFT),
    (B + "drift.py", "total / (2 * temperature**2 * batch_size)", "total / (2 * temperature * batch_size)", DRIFT),
    (B + "drift.py", "jnp.sqrt(jnp.maximum(log_draws, 0.0) / (2 * batch_size))", "jnp.sqrt(jnp.maximum(log_draws, 0.0) / batch_size)",
     DRIFT),
    (B + "drift.py", "jnp.sqrt(jnp.where(close, (1 - rho) * (1 + rho), 1.0))", "jnp.where(close, (1 - rho) * (1 + rho), 1.0)", DRIFT),
    (B + "drift.py", "  k_a, apart = centered(k_a), centered(k_b) - centered(k_a)",
     "  k_a, apart = centered(k_a), k_b / scale - k_a / scale", DRIFT),
    (B + "drift.py", "sums(lambda a, b: (a - mean) ** 2)", "sums(lambda a, b: a ** 2)", DRIFT),
    # Training: what a step is.
    (T + "state.py", "return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)",
     "return jax.random.wrap_key_data(state.key)", STEP),
    (T + "step.py", "optax.incremental_update(params, learner.average, 1 - momentum)",
     "optax.incremental_update(params, learner.average, momentum)", PLANNER),
    (T + "step.py", "return (projected[:, 0], projected[:, 1]), changed", "return (projected[:, 0], projected[:, 0]), changed", STEP),
    (T + "step.py", "params = optax.apply_updates(learner.params, changes)", "params = optax.apply_updates(learner.params, slopes)", STEP),
    (T + "step.py", "whitened = whiten(*embeddings)", "whitened = embeddings", STEP),
    (T + "step.py", "return updated.learner, count + 1, metrics", "return updated.learner, count + 2, metrics", COUPLED),
    (T + "step.py", "own = hyper._replace(temperature=hyper.temperature[name])",
     "own = hyper._replace(temperature=min(hyper.temperature.values()))", COUPLED),
    (T + "microbatch.py", "gradient, _ = lax.scan(second, owned, (parts, cut(slopes, pieces)))",
     "gradient, _ = lax.scan(second, jax.tree.map(jnp.zeros_like, owned), (parts, cut(slopes, pieces)))", MICROBATCH),
    (T + "microbatch.py", "return (value, (new_stats, aux)), gradient", "return (value, (batch_stats, aux)), gradient", MICROBATCH),
    (T + "microbatch.py", "rows.reshape(-1, pieces, *rows.shape[1:]).swapaxes(0, 1)", "rows.reshape(pieces, -1, *rows.shape[1:])",
     "tests/test_microbatch.py"),
    (T + "objective.py", "return sum(map(of_view, embeddings)) / 2, memory", "return of_view(embeddings[0]), memory", STEP),
    (T + "optimizer.py", "return jax.tree.map(lambda p: p.ndim > 1, params)", "return jax.tree.map(lambda p: p.ndim > 0, params)",
     OPTIMIZER),
    (T + "optimizer.py", "warm = (step + 1) / jnp.maximum(warmup_steps, 1)", "warm = step / jnp.maximum(warmup_steps, 1)", OPTIMIZER),
    (T + "optimizer.py", "jnp.maximum(total_steps - warmup_steps, 1)", "jnp.maximum(total_steps, 1)", OPTIMIZER),
    (T + "optimizer.py", '"sqrt": ratio**0.5', '"sqrt": ratio', OPTIMIZER),
    (T + "optimizer.py", "optax.chain(optax.add_decayed_weights(weight_decay, mask=decayed), optax.sgd(schedule, momentum=momentum))",
     "optax.chain(optax.sgd(schedule, momentum=momentum), optax.add_decayed_weights(weight_decay, mask=decayed))", OPTIMIZER),
    (T + "diagnostics.py", "1 / jnp.maximum(ranks[\"stable\"], 1.0)", "1 / jnp.maximum(ranks[\"entropy\"], 1.0)", DIAGNOSTICS),
    (T + "diagnostics.py", "jnp.mean(repulsion * temperature < VANISHED", "jnp.mean(repulsion < VANISHED", DIAGNOSTICS),
    (T + "diagnostics.py", '"uniformity": metrics.uniformity(u)', '"uniformity": metrics.uniformity(v)', DIAGNOSTICS),
    # Batches.
    (T + "batches/tables.py", "np.random.SeedSequence([seed, epoch])", "np.random.SeedSequence([seed])", STEP),
    (T + "batches/planner.py", "key = jax.random.fold_in(jax.random.key(plan.seed), epoch)", "key = jax.random.key(plan.seed)", PLANNER),
    (T + "batches/planner.py", "(epoch - 1) % self._plan.refresh_epochs", "epoch % self._plan.refresh_epochs", PLANNER),
    (T + "batches/planner.py", "options is not None and epoch >= 2 and", "options is not None and epoch >= 1 and", PLANNER),
    (T + "batches/bank.py", "return unit_rows(program.encode(network, images)[1])", "return unit_rows(program.encode(network, images)[0])",
     PLANNER),
    (T + "batches/bank.py", "chosen_variables = averaged_variables if config.momentum else variables", "chosen_variables = variables",
     "tests/test_planner.py -k averaged"),
    # Checkpoints and scores.
    ("spectral_jax/workdir/checkpoints.py", "if _checksum(path) != checksum:", "if False:", CHECKPOINTS),
    ("spectral_jax/workdir/checkpoints.py", "steps = sorted(manager.all_steps(), reverse=True)", "steps = sorted(manager.all_steps())",
     CHECKPOINTS),
    ("spectral_jax/workdir/checkpoints.py", "if found != FORMAT:", "if found > FORMAT:", CHECKPOINTS),
    (E + "probes.py", "scale = jnp.sqrt(jnp.mean(jnp.var(train_z, axis=0)))", "scale = jnp.sqrt(jnp.mean(jnp.var(test_z, axis=0)))",
     EVALUATION),
    (E + "probes.py", "+ 0.5 * scale * jnp.sum(w * w)", "+ scale * jnp.sum(w * w)", EVALUATION),
    (E + "probes.py", "chosen = generator.permutation(of_class)[:shots]", "chosen = of_class[:shots]", EVALUATION),
    (E + "features.py", "for part in zip(*outputs))", "for part in zip(*outputs[::-1]))", EVALUATION),
]
