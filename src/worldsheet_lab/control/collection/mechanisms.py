"""Problems of mechanisms: an arm, chains of masses, pendulums that swing up."""

from collections.abc import Sequence
from itertools import pairwise
from math import pi

from worldsheet.control import FreeDuration
from worldsheet_lab.control.collection.case import Case, Reference
from worldsheet_lab.control.collection.scalars import Scalar, Vector, cos, sin, sqrt, squares


def _arm(x: Vector, u: Vector) -> Vector:
    inertia = ((5 - x[0]) ** 3 + x[0] ** 3) / 3
    return [x[3], x[4], x[5], u[0] / 5, u[1] / (inertia * sin(x[2]) ** 2), u[2] / inertia]


ROBOT_ARM = Case(
    name="robot-arm",
    title="a robot's arm turned by 120° in the least time",
    source="COPS 3, problem 9; Mössner-Beigel 1999",
    states=("length", "angle (rad)", "rise (rad)", "its rate", "turning rate", "rising rate"),
    controls=("pull", "turning torque", "rising torque"),
    initial=(4.5, 0.0, pi / 4, 0.0, 0.0, 0.0),
    steps=60,
    duration=FreeDuration(5.0),
    dynamics=_arm,
    running=lambda x, u: 1.0,
    bounds=([-1.0] * 3, [1.0] * 3),
    end=lambda x: [x[0] - 4.5, x[1] - 2 * pi / 3, x[2] - pi / 4, *x[3:]],
    reference=Reference(9.14162469213, published=9.1409, within=1e-3, publisher="COPS 3"),
)

_MASS, _STIFFNESS, _LENGTH, _GRAVITY = 0.033, 1.0, 0.033, 9.81


def _chain(x: Vector, u: Vector) -> Vector:
    """The first end of the chain hangs at the origin, the last is moved at speed u; positions first, then speeds."""
    places = [(0.0, 0.0, 0.0), *_threes(x[: (len(x) + 3) // 2])]
    speeds = x[(len(x) + 3) // 2 :]
    forces = [_spring(below, above) for below, above in pairwise(places)]
    rates = [
        (onward - back) / _MASS - (_GRAVITY if axis == 2 else 0.0)
        for before, after in pairwise(forces)
        for axis, (back, onward) in enumerate(zip(before, after, strict=True))
    ]
    return [*speeds, *u, *rates]


def _spring(below: Vector, above: Vector) -> Vector:
    """The pull on the lower of two masses towards the upper."""
    apart = [there - here for here, there in zip(below, above, strict=True)]
    return [_STIFFNESS * (1 - _LENGTH / sqrt(squares(apart))) * part for part in apart]


def _threes(values: Vector) -> list[Vector]:
    return [values[first : first + 3] for first in range(0, len(values), 3)]


def _calm(x: Vector, u: Vector) -> Scalar:
    middle = (len(x) + 3) // 2
    return 25 * squares(x[middle - 3 : middle], goal=(1.0, 0.0, 0.0)) + squares(x[middle:]) + 0.01 * squares(u)


def _hanging(masses: int, reference: Reference) -> Case:
    """So many masses between two ends; the chain begins as a straight line to a wrong place."""
    places = range(1, masses + 2)
    line = [part * place / (masses + 1) for place in places for part in (0.6, 0.4, 0.2)]
    return Case(
        name=f"chain-{6 * masses + 3}",
        title=f"a chain of {masses} masses brought to rest by moving its end, beside a wall",
        source="Wirsching, Bock and Diehl 2006, in the numbers of acados' example",
        states=(*_named("xyz", places), *_named(("v_x", "v_y", "v_z"), places[:-1])),
        controls=("v_x", "v_y", "v_z"),
        initial=(*line, *[0.0] * (3 * masses)),
        steps=40,
        duration=8.0,
        dynamics=_chain,
        running=_calm,
        bounds=([-1.0] * 3, [1.0] * 3),
        path=lambda x, u: [-0.05 - place[1] for place in _threes(x[: 3 * masses + 3])],
        reference=reference,
    )


def _named(axes: Sequence[str], places: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{axis} of {place}" for place in places for axis in axes)


CHAIN_33 = _hanging(5, Reference(60.1323680397))
CHAIN_57 = _hanging(9, Reference(587.089890411))


def _acrobot(x: Vector, u: Vector) -> Vector:
    """Two links of 1 m and 2 m, 1 kg each, angles from hanging; a motor at the elbow."""
    sine, cosine = sin(x[1]), cos(x[1])
    first, both, second = 0.083 + 0.25 + 1 + 1.33 + 2 * cosine, 1.33 + cosine, 1.33
    whirl = 2 * sine * x[2] * x[3] + sine * x[3] ** 2
    bent = 9.81 * sin(x[0] + x[1])
    hip = whirl - 9.81 * 1.5 * sin(x[0]) - bent - 0.1 * x[2]
    elbow = u[0] - sine * x[2] ** 2 - bent - 0.1 * x[3]
    whole = first * second - both**2
    return [x[2], x[3], (second * hip - both * elbow) / whole, (first * elbow - both * hip) / whole]


ACROBOT = Case(
    name="acrobot",
    title="swing-up of an acrobot with the least torque",
    source="Spong 1995; Tedrake, Underactuated Robotics, chapter 3",
    states=("shoulder (rad)", "elbow (rad)", "its rate (rad/s)", "the elbow's (rad/s)"),
    controls=("torque (N m)",),
    initial=(0.0, 0.0, 0.0, 0.0),
    steps=80,
    duration=4.0,
    dynamics=_acrobot,
    running=lambda x, u: u[0] ** 2,
    bounds=([-20.0], [20.0]),
    end=lambda x: [x[0] - pi, *x[1:]],
    reference=Reference(61.2801774702),
)


def _cart(x: Vector, u: Vector) -> Vector:
    """A cart of 1 kg with a pole of 0.3 kg and 0.5 m; the angle is 0 where the pole hangs."""
    sine, cosine = sin(x[1]), cos(x[1])
    mass = 1 + 0.3 * sine**2
    pushed = 0.15 * sine * x[3] ** 2 + u[0] + 0.3 * 9.81 * cosine * sine
    turned = -(0.15 * cosine * sine * x[3] ** 2 + u[0] * cosine + 1.3 * 9.81 * sine)
    return [x[2], x[3], pushed / mass, turned / (0.5 * mass)]


CART_POLE = Case(
    name="cart-pole",
    title="swing-up of a pole on a cart within 2 s with the least force, ending 1 m away",
    source="Kelly 2017, section 6",
    states=("position (m)", "angle (rad)", "speed (m/s)", "turning rate (rad/s)"),
    controls=("force (N)",),
    initial=(0.0, 0.0, 0.0, 0.0),
    steps=60,
    duration=2.0,
    dynamics=_cart,
    running=lambda x, u: u[0] ** 2,
    bounds=([-20.0], [20.0]),
    path=lambda x, u: [x[0] - 2, -2 - x[0]],
    end=lambda x: [x[0] - 1, x[1] - pi, *x[2:]],
    reference=Reference(58.220016278, published=58.8, within=1e-2, publisher="Kelly"),
)

MECHANISMS = (ROBOT_ARM, CHAIN_33, CHAIN_57, ACROBOT, CART_POLE)
