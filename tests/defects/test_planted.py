"""One line is made wrong in a copy of the library, and the tests that should see it must see it."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import worldsheet as ws

TESTS = Path(__file__).parents[1]


class Defect(NamedTuple):
    """A line of the source, what it is turned into, and which tests must fail then."""

    file: str
    right: str
    wrong: str
    test: str
    choice: str


DEFECTS = {
    "a-reader-of-a-state-is-not-heard": Defect(
        "cut/state.py",
        "credits[index] = credit if known is None else known + credit",
        "credits[index] = credit if known is None else known",
        "laws/test_graphs.py",
        "backward_lets_go",
    ),
    "sites-are-pulled-in-the-order-of-calls": Defect(
        "cut/pull.py",
        "        for site in reversed(run.sites):\n            edges, credits = _whole(run.predictions.pop(), site)",
        "        for site in run.sites:\n            edges, credits = _whole(run.predictions.pop(0), site)",
        "laws/test_graphs.py",
        "backward_lets_go",
    ),
    "a-mask-is-drawn-twice": Defect(
        "cut/world.py",
        "        torch.set_rng_state(look.cpu)\n",
        "",
        "parity/test_strangers.py",
        "generators_are_where",
    ),
    "a-state-keeps-the-graph-of-its-prediction": Defect(
        "cut/run.py",
        "        self.sites.append(site)\n",
        "        self.sites.append(site)\n        states = tuple(predictions)\n",
        "laws/test_graphs.py",
        "backward_lets_go",
    ),
    "a-hook-hears-every-part": Defect(
        "cut/leaves.py",
        "    for each in hooks:\n        each.clear()\n",
        "",
        "parity/test_strangers.py",
        "hook",
    ),
    "a-changed-path-is-not-noticed": Defect(
        "cut/replayed.py",
        "if known != (site.name, len(predictions)) or not fits:",
        "if not fits:",
        "refusals/test_module_refusals.py",
        "sites_change",
    ),
    "statistics-move-at-every-run": Defect(
        "cut/world.py",
        "module._buffers[name] = copies[id(buffer)]",
        "pass",
        "parity/test_any_module.py",
        "trees_in_and_out",
    ),
    "echoes-between-scatterers-are-dropped": Defect(
        "control/lqr/parallel_scan.py",
        "torch.baddbmm(eye, left.far, near)",
        "torch.baddbmm(eye, left.far, near, alpha=0.5)",
        "laws/test_control_scattering.py",
        "find_the_same_impedance",
    ),
    "constraints-that-cost-nothing": Defect(
        "control/solution.py",
        "return known.inequality.reshape(inequalities.shape), known.terminal.reshape(terminal.shape)",
        "return known.inequality.reshape(inequalities.shape), torch.zeros_like(terminal)",
        "parity/test_control_gradients.py",
        "gradient and terminal and constraint",
    ),
    "an-active-bound-lets-go-in-the-backward-pass": Defect(
        "control/sensitivity.py",
        "hessian = stage.hessian + jacobian.mT @ (stiffness[..., None] * jacobian)",
        "hessian = stage.hessian",
        "parity/test_control_gradients.py",
        "trajectories_move and upper",
    ),
    "the-wave-forgets-its-impedance": Defect(
        "control/methods/first_order.py",
        "costates[:, 1:] += speed / z * (reached - states[:, 1:])",
        "costates[:, 1:] += speed * z * (reached - states[:, 1:])",
        "laws/test_control_waves.py",
        "reflects_by_its_mismatch and 0.25",
    ),
    "time-runs-the-wrong-way-for-weights": Defect(
        "streaming/equations.py",
        "gain = -per_neuron * float(momentum.gain)",
        "gain = per_neuron * float(momentum.gain)",
        "parity/test_streaming_reference.py",
        "equations_written_out",
    ),
    "an-unknown-target-teaches": Defect(
        "streaming/io.py",
        "gradient.masked_fill(self._unknown[:, None], 0)",
        "gradient",
        "refusals/test_streaming_refusals.py",
        "unknown_class",
    ),
    "a-multiplier-adds-to-its-past": Defect(
        "schedules/late.py",
        "self._delays._replace(own=0)",
        "self._delays",
        "closed_form/test_delay_bound.py",
        "delay_equation and 2",
    ),
    "a-grounded-bias-forgets-the-weight": Defect(
        "ports/centered.py",
        "pair.bias.sub_(_carried(pair.weight, mean) - old)",
        "pair.bias.sub_(old - _carried(pair.weight, mean))",
        "parity/test_grounded.py",
        "inner_port_moves and linear-sgd",
    ),
    "foresight-that-looks-half-as-far": Defect(
        "pipeline/weights.py",
        "Predicted(horizon=2.0)",
        "Predicted(horizon=1.0)",
        "closed_form/test_late_ports.py",
        "passive_stage_is_the_delay_equation and 4",
    ),
    "noise-of-the-wrong-power": Defect(
        "substrates/noisy.py",
        "mean_square(message, view).sqrt()",
        "mean_square(message, view)",
        "closed_form/test_substrates.py",
        "variance_of_one_noisy_message",
    ),
    "a-wave-scatters-with-the-wrong-sign": Defect(
        "dynamics/wave.py",
        "direct - _limited(across, direct, self.limit)",
        "direct + _limited(across, direct, self.limit)",
        "laws/test_waves.py",
        "wave_variables_is_what_theory_says",
    ),
    "a-residual-drives-no-costate": Defect(
        "dynamics/wave.py",
        "direct if crossing == 0 else direct +",
        "direct if crossing >= 0 else direct +",
        "laws/test_waves.py",
        "wave_variables_is_what_theory_says",
    ),
    "one-junction-has-its-neighbours-impedance": Defect(
        "dynamics/impedance.py",
        "for site in range(depth - 1, 0, -1):",
        "for site in range(depth - 1, 1, -1):",
        "laws/test_waves.py",
        "ratios_of_power",
    ),
    "one-layers-weights-serve-all": Defect(
        "layers/vmapped.py",
        "torch.stack([owner[name].detach() for owner in owners])",
        "torch.stack([owners[0][name].detach() for _ in owners])",
        "parity/test_mapped.py",
        "one_by_one and 4-PredictiveCoding",
    ),
    "the-loss-has-no-slope": Defect(
        "engine/sitewise/block.py",
        "found = None if site + 1 in self._cut else self._pull(site + 1, delays, last=last).inputs[0]",
        "found = None if site + 1 > self.topology.size else self._pull(site + 1, delays, last=last).inputs[0]",
        "laws/test_exactness.py",
        "exact_after_two_ticks and 3-Tanh",
    ),
    "a-phase-reads-what-it-writes": Defect(
        "engine/sitewise/block.py",
        "moves = [(f, self._move(f)) for f in phase if f.field is Field.STATE or wanted[f.site]]",
        "moves = ((f, self._move(f)) for f in phase if f.field is Field.STATE or wanted[f.site])",
        "laws/test_exactness.py",
        "states_settle_after_one_tick and 3",
    ),
    "the-rate-is-turned-around": Defect(
        "dynamics/dyadic.py",
        "view.state.lerp(view.prediction, self.rate)",
        "view.state.lerp(view.prediction, 1 - self.rate)",
        "closed_form/test_linear_chain.py",
        "spreads_as_a_binomial and 4-0.75",
    ),
    "the-last-use-of-a-tied-weight-wins": Defect(
        "solve/gradients.py",
        "(parameter, effort if known is None else _sum(known[1], effort))",
        "(parameter, effort)",
        "parity/test_grad.py",
        "every_use_of_a_parameter and one-module-three-sites-wavefront",
    ),
    "grad-is-overwritten": Defect(
        "solve/gradients.py",
        "if leaf.grad is not None:",
        "if leaf.grad is None and False:",
        "parity/test_grad.py",
        "second_call_adds and wavefront",
    ),
    "dropout-is-drawn-again": Defect(
        "layers/replay.py",
        "with _rewound(kept.random, device):",
        "with _rewound((), device):",
        "parity/test_random_layers.py",
        "one_mask_serves and 0.6",
    ),
    "statistics-move-at-every-evaluation": Defect(
        "problem/calls.py",
        "if traits.random or traits.buffers else function",
        "if traits.random else function",
        "parity/test_buffers.py",
        "backward_moves_statistics_once and synchronous",
    ),
    "old-messages-are-new": Defect(
        "engine/sitewise/block.py",
        "states = self.sheet.moment(age)[0] if age else self.sheet.states",
        "states = self.sheet.states",
        "laws/test_schedules.py",
        "simulated_settle_ticks",
    ),
    "the-wave-stops-a-tick-early": Defect(
        "schedules/wavefront.py",
        "return up + down",
        "return up + down[:-1]",
        "laws/test_schedules.py",
        "a_chain_settles_up_and_down_again and 9",
    ),
    "a-dead-layer-is-averaged-away": Defect(
        "diagnostics/compare.py",
        "return min((row.cosine for row in self.rows), default=1.0)",
        "return sum(row.cosine for row in self.rows) / len(self.rows)",
        "parity/test_compare.py",
        "dead_layer",
    ),
    "a-closed-form-has-its-neighbours-slope": Defect(
        "layers/activations.py",
        "torch.ops.aten.sigmoid_backward",
        "torch.ops.aten.tanh_backward",
        "parity/test_closed_forms.py",
        "every_form_takes_every_shape and one-row-sigmoid",
    ),
    "the-front-of-credit-lags": Defect(
        "schedules/front.py",
        "credited = moving | {child for site in moving for child in topology.children[site]}",
        "credited = found[-2] if len(found) > 1 else frozenset({topology.size})",
        "laws/test_credit_front.py",
        "skipping_changes_no_bit",
    ),
    "a-nudge-pulls-at-full-strength": Defect(
        "dynamics/predictive.py",
        "return 1.0 if self.nudge is None else self.nudge",
        "return 1.0",
        "laws/test_nudging.py",
        "first_order",
    ),
    "the-output-bends-nothing": Defect(
        "dynamics/descent.py",
        "credits[index] = -samples * pull",
        "credits[index] = 0 * pull",
        "closed_form/test_estimated_rate.py",
        "largest_curvature and None-2",
    ),
    "an-overwritten-input-is-not-copied": Defect(
        "problem/calls.py",
        "point if writes is False else point.clone()",
        "point",
        "parity/test_in_place.py",
        "slow_rate and relu_in_the_middle",
    ),
    "messages-outlive-the-parameters-they-were-made-with": Defect(
        "engine/motion.py",
        "self._block.renew()",
        "self._block.close_tick()",
        "parity/test_unlocked.py",
        "every_tick_moves and resistive-dyadic-closed",
    ),
    "the-cost-judges-before-there-is-an-output": Defect(
        "schedules/onset.py",
        "if depth + topology.heights[site] <= tick",
        "if topology.heights[site] <= tick",
        "parity/test_unlocked.py",
        "from_silence",
    ),
    "a-neighbour-keeps-an-old-state": Defect(
        "pipeline/segment.py",
        "self._told = self._told and self.sites.stop - 1 not in moved",
        "self._told = self._told",
        "parity/test_relaxation_in_stages.py",
        "tolerance_stops and slow",
    ),
    "a-stage-runs-ahead-of-its-bound": Defect(
        "pipeline/transport/threads.py",
        "carried < min(packets, answered + most)",
        "carried < packets",
        "parity/test_free_running.py",
        "any_order_of_turns and Stashed",
    ),
    "a-bias-is-no-input": Defect(
        "ports/newton.py",
        "inputs.new_ones(len(inputs), 1)",
        "inputs.new_zeros(len(inputs), 1)",
        "parity/test_newton_port.py",
        "second_moments and dynamics0",
    ),
}


def run_tests(library: Path, *selection: str) -> subprocess.CompletedProcess[str]:
    """The chosen tests on another copy of the library, without the annotation checker, which may speak first."""
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:xdist", "-x", "--tb=line"]
    paths = f"pythonpath={library} {TESTS} {TESTS.parent / 'tools'}"
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-o", "addopts=", "-o", paths, *selection],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with a copy of the library in it."""
    shutil.copytree(Path(ws.__file__).parent, tmp_path / "worldsheet", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_caught(name: str, library: Path) -> None:
    defect = DEFECTS[name]
    source = library / "worldsheet" / defect.file
    text = source.read_text(encoding="utf-8")
    assert text.count(defect.right) == 1, f"{defect.file} has changed: plant this defect anew"
    source.write_text(text.replace(defect.right, defect.wrong), encoding="utf-8")
    done = run_tests(library, str(TESTS / defect.test), "-k", defect.choice)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "error" not in done.stdout.splitlines()[-1], done.stdout


def test_the_same_tests_pass_on_an_unspoilt_copy(library: Path) -> None:
    files = sorted({str(TESTS / defect.test) for defect in DEFECTS.values()})
    choice = " or ".join(f"({defect.choice})" for defect in DEFECTS.values())
    done = run_tests(library, *files, "-k", choice)
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    passed = int(done.stdout.splitlines()[-1].split(" passed")[0].split()[-1])
    assert passed >= len(DEFECTS)
