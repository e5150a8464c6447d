"""Problems of vehicles: a race car, a parking car, a truck with a trailer."""

from math import pi

from worldsheet.control import FreeDuration
from worldsheet_lab.control.collection.case import Case, Reference
from worldsheet_lab.control.collection.scalars import Vector, cos, sin, squares, tan

RACE_CAR = Case(
    name="race-car",
    title="a lap in the least time with a limit on the speed that depends on the place",
    source="Andersson, Gillis, Horn, Rawlings and Diehl 2019 (CasADi), the example of Opti",
    states=("place", "speed"),
    controls=("throttle",),
    initial=(0.0, 0.0),
    steps=100,
    duration=FreeDuration(1.0),
    dynamics=lambda x, u: [x[1], u[0] - x[1]],
    running=lambda x, u: 1.0,
    bounds=([0.0], [1.0]),
    path=lambda x, u: [x[1] - 1 + sin(2 * pi * x[0]) / 2],
    end=lambda x: [x[0] - 1],
    reference=Reference(1.90463404357, published=1.9047, within=1e-2, publisher="CasADi"),
)


def _car(x: Vector, u: Vector) -> Vector:
    return [x[3] * cos(x[2]), x[3] * sin(x[2]), x[3] * tan(x[4]) / 2.5, u[0], u[1]]


PARKING = Case(
    name="parking",
    title="parallel parking in little time",
    source="after Li, Wang and Shao 2016",
    states=("x (m)", "y (m)", "heading (rad)", "speed (m/s)", "steering (rad)"),
    controls=("acceleration (m/s²)", "steering rate (rad/s)"),
    initial=(0.0, 2.0, 0.0, 0.0, 0.0),
    steps=80,
    duration=FreeDuration(8.0),
    dynamics=_car,
    running=lambda x, u: 1 + 0.01 * squares(u),
    bounds=([-1.5, -0.8], [1.5, 0.8]),
    path=lambda x, u: [x[3] - 2, -2 - x[3], x[4] - 0.6, -0.6 - x[4], x[1] - 3.5, -0.1 - x[1]],
    end=lambda x: [x[0] - 1, *x[1:]],
    reference=Reference(7.96543176187),
)


def _truck(x: Vector, u: Vector) -> Vector:
    """A truck of 2 m that pushes a trailer of 4 m; x and y are those of the trailer's axle."""
    slow, bend = u[0] * cos(x[3]), u[0] * sin(x[3]) / 4
    return [slow * cos(x[2]), slow * sin(x[2]), bend, u[0] * tan(u[1]) / 2 - bend]


TRUCK_TRAILER = Case(
    name="truck-trailer",
    title="a truck backs its trailer to a dock",
    source="after Nguyen and Widrow 1990",
    states=("x (m)", "y (m)", "the trailer's heading (rad)", "hitch (rad)"),
    controls=("speed (m/s)", "steering (rad)"),
    initial=(10.0, 4.0, 0.5, 0.0),
    steps=60,
    duration=FreeDuration(15.0),
    dynamics=_truck,
    running=lambda x, u: 1 + 0.1 * squares(u),
    bounds=([-1.0, -0.6], [1.0, 0.6]),
    path=lambda x, u: [x[3] - 0.8, -0.8 - x[3]],
    end=lambda x: x,
    reference=Reference(12.5523928846),
)

VEHICLES = (RACE_CAR, PARKING, TRUCK_TRAILER)
