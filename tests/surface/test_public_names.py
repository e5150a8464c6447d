"""The public surface is frozen: names, signatures, what an import costs, and that everything is explained."""

import inspect
import json
import subprocess
import sys
from typing import Any

import pytest

import worldsheet as ws

NAMES = [
    "Asynchronous",
    "AugmentedLagrangian",
    "Centred",
    "Chain",
    "Character",
    "Coefficients",
    "Comparison",
    "Cost",
    "Courant",
    "CreditFront",
    "Current",
    "DataMissingError",
    "Delays",
    "Dyadic",
    "Dynamics",
    "Equilibrium",
    "Fidelity",
    "Field",
    "Fields",
    "HalfSquares",
    "Held",
    "Impedance",
    "InputError",
    "Late",
    "LayerError",
    "Leapfrog",
    "Matched",
    "Mix",
    "Nonlinearity",
    "NotConvergedWarning",
    "OffersCost",
    "OffersStep",
    "Onset",
    "Outcome",
    "Output",
    "Passive",
    "Pipeline",
    "Plan",
    "Predicted",
    "Prediction",
    "PredictiveCoding",
    "Record",
    "RelaxationError",
    "ResidualLinear",
    "Riccati",
    "RunFolderError",
    "ScaledLinear",
    "Schedule",
    "SiteRow",
    "SiteTable",
    "SitesChangedError",
    "Slow",
    "Solution",
    "Stack",
    "Stashed",
    "Status",
    "Step",
    "Stop",
    "Sweep",
    "Synchronous",
    "Topology",
    "View",
    "Wave",
    "WaveReport",
    "Wavefront",
    "WorldsheetError",
    "__version__",
    "backward",
    "calibrate",
    "centred",
    "compare",
    "control",
    "curvature",
    "ports",
    "relax",
    "residual_mlp",
    "simulate",
    "streaming",
    "substrates",
    "unlocked",
    "wave_report",
]

STOP = "Stop(max_ticks=None, tol=None, every=1, arrival=False)"
SIGNATURES = {
    "AugmentedLagrangian": "rate=None, dual_rate=1.0, penalty=1.0, averaged=True",
    "Leapfrog": "first=<Field.STATE: 'x'>",
    "PredictiveCoding": "rate=None, precision=1.0, averaged=True, nudge=None, "
    "prediction=<Prediction.MOVING: 'the states as they are now'>",
    "CreditFront": "first=<Field.COSTATE: 'λ'>",
    "ResidualLinear": "width, scale, activation=<Nonlinearity.RELU: 'max(0, z)'>",
    "ScaledLinear": "inputs, outputs, scale, activation=<Nonlinearity.LINEAR: 'z'>",
    "residual_mlp": "depth, width, activation=<Nonlinearity.RELU: 'max(0, z)'>, *, inputs=784, classes=10",
    "centred": f"chain, x, target, dynamics, schedule=None, stop={STOP}",
    "Matched": "margin=1.0",
    "Wave": "speed=1.0, impedance=Matched(margin=1.0), matching=0.8, limit=0.25, courant=<Courant.SHRINK: 'shrink'>, "
    "averaged=True, output=<Output.EXPLICIT: 'explicit'>",
    "wave_report": "chain, x, target, wave, record, rest",
    "Fields.from_waves": "rising, falling, impedances",
    "Fields.waves": "self, impedances",
    "ports.Grounded": "port, layers, memory=0.98",
    "ports.Inertial": "params, lr, momentum=0.9",
    "ports.Newton": "layers, lr=1.0, damping=0.1, memory=0.95, *, averaged=True",
    "ports.Newton.attach": "self, chain",
    "ports.Resistive": "params, lr",
    "ports.by_site": "chain",
    "ports.delayed": "port, delay",
    "ports.per_tick": "port, ticks, silent=0",
    "Asynchronous": "generator, max_delay=0",
    "Chain": "module, loss, *, flatten=False, blocks=None",
    "Delays": "below=0, above=0, point=0, own=0",
    "Late": "inner, delay",
    "Slow": "inner, sites, every, generator=None",
    "substrates.Delayed": "inner, ticks",
    "substrates.Mismatched": "inner, error, generator, factors=None",
    "substrates.Noisy": "inner, std, generator",
    "substrates.Quantised": "inner, bits, generator=None",
    "Pipeline": "chain, stages, *, optimizer, packets_per_update=8, "
    "weights=Passive(inner=Predicted(horizon=2.0), prompt=2.0), order=None, messages=None, free_running=False",
    "pipeline.relax": f"chain, stages, x, target, dynamics=Dyadic(rate=1.0), *, schedule=None, stop={STOP}, "
    "record=None, place=None",
    "Pipeline.train": "self, packets",
    "Passive": "inner=<factory>, prompt=2.0",
    "Predicted": "horizon=1.0",
    "Chain.named_parameters": "self",
    "Chain.judged": "self, loss",
    "Chain.observed": "self, observer",
    "Chain.parameters": "self",
    "Dyadic": "rate=1.0",
    "Equilibrium": "module, *, shape=None, rate=1.0, tol=None, max_ticks=500",
    "Fields": "states, costates",
    "Fields.doubled": "self",
    "Fields.from_doubled": "climbing, descending",
    "Record": "every=1, *, fields=False",
    "Schedule.table": "self, topology, ticks=None",
    "Solution.accumulate": "self",
    "Solution.gradients": "self",
    "Stop": "max_ticks=None, tol=None, every=1, arrival=False",
    "Sweep": "count=1",
    "Synchronous": "",
    "Topology": "parents, outputs=()",
    "Topology.chain": "depth",
    "Wavefront": "",
    "WorldsheetError": "given, accepted, remedy",
    "backward": f"chain, x, target, dynamics=Dyadic(rate=1.0), schedule=None, stop={STOP}, *, recompute=False, "
    "compile=False",
    "calibrate": "chain, x, target, dynamics",
    "compare": "chain, x, target, solution",
    "curvature": "chain, x, target, port, dynamics=Dyadic(rate=1.0)",
    "relax": f"chain, x, target, dynamics=Dyadic(rate=1.0), schedule=None, stop={STOP}, record=None, *, initial=None, "
    "stack=True, compile=False",
    "simulate": "schedule, topology",
    "unlocked": "chain, x, target, port, dynamics=Dyadic(rate=1.0), ticks=None, schedule=None, *, record=None, "
    "initial=None",
}
MEMBERS = {
    "Comparison": "cosine relative_error rows snr",
    "Fidelity": "cosine name relative_error snr",
    "Fields": "costates doubled from_doubled from_waves states waves",
    "Held": "fields loss outcome record ticks",
    "Outcome": "converged remedy residual status ticks",
    "Record": "add costate_residuals every fields keep moments state_residuals ticks",
    "Solution": "accumulate chain costates evaluations fields gradients input_gradient loss outcome pairs problem "
    "pulls record states ticks",
    "Status": "ARRIVED BUDGET_SPENT CONVERGED DIVERGED ENDED SITES_CHANGED STOPPED",
    "Stop": "arrival every max_ticks tol",
    "View": "absorbed at_output costate costate_residual credit own prediction pulled samples state state_residual",
}


def reach(path: str) -> Any:
    found: Any = ws
    for part in path.split("."):
        found = getattr(found, part)
    return found


def written(function: Any) -> str:
    """Names, kinds and defaults of the arguments; annotations are the type checker's business."""
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))[1:-1]


def test_public_names_are_these_and_are_there() -> None:
    assert ws.__all__ == NAMES
    assert all(hasattr(ws, name) for name in NAMES)


@pytest.mark.parametrize("path", SIGNATURES)
def test_signatures_are_frozen(path: str) -> None:
    assert written(reach(path)) == SIGNATURES[path]


@pytest.mark.parametrize("name", MEMBERS)
def test_members_are_frozen(name: str) -> None:
    cls = reach(name)
    fields = set(getattr(cls, "__dataclass_fields__", ()))
    if name == "Record":
        fields = {field for field in vars(ws.Record()) if not field.startswith("_")}
    found = fields | {member for member in vars(cls) if not member.startswith("_")}
    assert sorted(found) == MEMBERS[name].split()


def test_every_public_thing_is_explained() -> None:
    silent = []
    for name in ws.__all__:
        thing = reach(name)
        if name == "__version__":
            continue
        doc = inspect.getdoc(thing) or ""
        if not doc or doc.startswith(f"{name}("):  # what a dataclass writes by itself
            silent.append(name)
        if inspect.isclass(thing):
            members = {member: value for member, value in vars(thing).items() if not member.startswith("_")}
            ours = {
                m: v for m, v in members.items() if inspect.isfunction(v) or isinstance(v, (property, staticmethod))
            }
            silent += [f"{name}.{member}" for member in ours if not inspect.getdoc(getattr(thing, member))]
    assert silent == []


def test_every_public_name_says_where_it_lives() -> None:
    modules = ("control", "ports", "streaming", "substrates")
    homes = {name: reach(name).__module__ for name in ws.__all__ if name not in ("__version__", *modules)}
    assert all(home.startswith("worldsheet.") for home in homes.values()), homes


def test_importing_the_library_loads_no_shell() -> None:
    heavy = ["matplotlib", "typer", "rich", "sklearn", "pooch", "safetensors", "worldsheet_lab"]
    code = f"import json, sys, worldsheet; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
