"""Problems that textbooks begin with: a few states, most of them with a known answer."""

from worldsheet.control import FreeDuration
from worldsheet_lab.control.collection.case import Case, Reference
from worldsheet_lab.control.collection.scalars import Vector, cos, sin, squares

_GRAVITY = 9.80665

VAN_DER_POL = Case(
    name="van-der-pol",
    title="van der Pol oscillator calmed with a limit on its first state",
    source="CasADi's examples of direct methods",
    states=("x_1", "x_2"),
    controls=("u",),
    initial=(0.0, 1.0),
    steps=40,
    duration=10.0,
    dynamics=lambda x, u: [(1 - x[1] ** 2) * x[0] - x[1] + u[0], x[0]],
    running=lambda x, u: squares(x) + squares(u),
    bounds=([-1.0], [1.0]),
    path=lambda x, u: [-0.25 - x[0]],
    reference=Reference(3.63695741992),
)

BRYSON_DENHAM = Case(
    name="bryson-denham",
    title="a mass thrown against a wall at 1/9 that comes back as fast, with the least effort",
    source="Bryson and Ho 1975, section 3.11",
    states=("position", "speed"),
    controls=("acceleration",),
    initial=(0.0, 1.0),
    steps=60,
    duration=1.0,
    dynamics=lambda x, u: [x[1], u[0]],
    running=lambda x, u: u[0] ** 2 / 2,
    path=lambda x, u: [x[0] - 1 / 9],
    end=lambda x: [x[0], x[1] + 1],
    reference=Reference(4.00250312893, published=4.0, within=1e-2, publisher="4/(9 l) with l = 1/9, Bryson and Ho"),
)

BRACHISTOCHRONE = Case(
    name="brachistochrone",
    title="the slide of least time to a point 10 m away and 5 m below",
    source="Bernoulli 1696, in the numbers of Dymos' example",
    states=("distance (m)", "fall (m)", "speed (m/s)"),
    controls=("slope (rad)",),
    initial=(0.0, 0.0, 0.0),
    steps=50,
    duration=FreeDuration(1.0),
    dynamics=lambda x, u: [x[2] * cos(u[0]), x[2] * sin(u[0]), _GRAVITY * sin(u[0])],
    running=lambda x, u: 1.0,
    end=lambda x: [x[0] - 10, x[1] - 5],
    reference=Reference(1.80169553571, published=1.8016, within=1e-3, publisher="the cycloid, by Dymos"),
)

LEAST_TIME = Case(
    name="least-time",
    title="a car 300 m from rest to rest in the least time, braking twice as hard",
    source="Vanderbei, Case Studies in Trajectory Optimization",
    states=("position (m)", "speed (m/s)"),
    controls=("acceleration (m/s²)",),
    initial=(0.0, 0.0),
    steps=60,
    duration=FreeDuration(10.0),
    dynamics=lambda x, u: [x[1], u[0]],
    running=lambda x, u: 1.0,
    bounds=([-2.0], [1.0]),
    end=lambda x: [x[0] - 300, x[1]],
    reference=Reference(30.0, "closed form: 20 s of 1 m/s² and 10 s of -2 m/s²", 30.0, 1e-12, "the same"),
)

MINIMUM_FUEL = Case(
    name="minimum-fuel",
    title="a mass from rest to rest with the least fuel, pushed from either side",
    source="Athans and Falb 1966, chapter 8",
    states=("position", "speed"),
    controls=("push", "pull"),
    initial=(0.0, 0.0),
    steps=50,
    duration=2.5,
    dynamics=lambda x, u: [x[1], u[0] - u[1]],
    running=lambda x, u: u[0] + u[1],
    bounds=([0.0, 0.0], [1.0, 1.0]),
    end=lambda x: [x[0] - 1, x[1]],
    reference=Reference(1.0, "closed form: push for 0.5, nothing for 1.5, pull for 0.5", 1.0, 1e-12, "the same"),
)


def _rayleigh(x: Vector, u: Vector) -> Vector:
    return [x[1], -x[0] + (1.4 - 0.14 * x[1] ** 2) * x[1] + 4 * u[0]]


RAYLEIGH = Case(
    name="rayleigh",
    title="the tunnel diode of Rayleigh's equation with |u| ≤ 1",
    source="Maurer and Augustin 2001",
    states=("current", "its rate"),
    controls=("voltage",),
    initial=(-5.0, -5.0),
    steps=90,
    duration=4.5,
    dynamics=_rayleigh,
    running=lambda x, u: u[0] ** 2 + x[0] ** 2,
    bounds=([-1.0], [1.0]),
    reference=Reference(44.6186001098),
)

ZERMELO = Case(
    name="zermelo",
    title="a boat across a current that grows with the distance from the shore, in the least time",
    source="Bryson and Ho 1975, section 2.7",
    states=("x", "y"),
    controls=("heading (rad)",),
    initial=(3.66, -1.86),
    steps=60,
    duration=FreeDuration(5.0),
    dynamics=lambda x, u: [cos(u[0]) - x[1], sin(u[0])],
    running=lambda x, u: 1.0,
    end=lambda x: x,
    reference=Reference(5.45818123402, published=5.46, within=1e-3, publisher="Bryson and Ho"),
)

MOON_LANDER = Case(
    name="moon-lander",
    title="a soft landing on the moon with the least fuel",
    source="Meditch 1964, in the numbers of GPOPS and PROPT",
    states=("height", "speed"),
    controls=("thrust",),
    initial=(10.0, -2.0),
    steps=60,
    duration=FreeDuration(4.0),
    dynamics=lambda x, u: [x[1], u[0] - 1.5],
    running=lambda x, u: u[0],
    bounds=([0.0], [3.0]),
    end=lambda x: x,
    reference=Reference(8.24683957665, published=8.2462, within=1e-3, publisher="PROPT and GPOPS"),
)

TEXTBOOK = (
    VAN_DER_POL,
    BRYSON_DENHAM,
    BRACHISTOCHRONE,
    LEAST_TIME,
    MINIMUM_FUEL,
    RAYLEIGH,
    ZERMELO,
    MOON_LANDER,
)
