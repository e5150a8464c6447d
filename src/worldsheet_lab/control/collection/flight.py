"""Problems of flight: gliders, rockets, a shuttle, a quadrotor."""

from math import pi, radians

from worldsheet.control import FreeDuration
from worldsheet_lab.control.collection.case import Case, Reference
from worldsheet_lab.control.collection.scalars import Rate, Vector, cos, exp, sin, sqrt, squares


def _orbit(x: Vector, u: Vector) -> Vector:
    radius, outward, along, mass = x
    return [
        outward,
        along**2 / radius - 1 / radius**2 + 0.1405 * sin(u[0]) / mass,
        -outward * along / radius + 0.1405 * cos(u[0]) / mass,
        -0.0749,
    ]


ORBIT_RAISING = Case(
    name="orbit-raising",
    title="the largest circular orbit that a small steady thrust reaches in a given time",
    source="Moyer and Pinkham 1964; Bryson and Ho 1975, section 2.5",
    states=("radius", "radial speed", "tangential speed", "mass"),
    controls=("thrust angle (rad)",),
    initial=(1.0, 0.0, 1.0, 1.0),
    steps=60,
    duration=3.32,
    dynamics=_orbit,
    terminal=lambda x: -x[0],
    end=lambda x: [x[1], x[2] - 1 / sqrt(x[0])],
    reference=Reference(-1.5252097866, published=-1.525, within=1e-3, publisher="Bryson and Ho"),
)


def _glider(length: float, speed: float) -> Rate:
    """A glider in an updraft 250 m away, in units of so many metres and metres per second."""

    def rates(x: Vector, u: Vector) -> Vector:
        away, forward, upward = x[0] * length, x[2] * speed, x[3] * speed
        bump = (away / 100 - 2.5) ** 2
        sinking = upward - 2.5 * (1 - bump) * exp(-bump)
        air = sqrt(forward**2 + sinking**2)
        drag = 0.5 * (0.034 + 0.069662 * u[0] ** 2) * 1.13 * 14 * air / 100
        lift = 0.5 * u[0] * 1.13 * 14 * air / 100
        return [
            forward / length,
            upward / length,
            (-lift * sinking - drag * forward) / speed,
            (lift * forward - drag * sinking - 9.80665) / speed,
        ]

    return rates


def _hang_glider(name: str, length: float, speed: float, units: tuple[str, str], reference: Reference) -> Case:
    forward, upward = 13.2275675 / speed, -1.28750052 / speed
    return Case(
        name=name,
        title=f"the farthest flight of a hang glider through an updraft, in {units[0]} and {units[1]}",
        source="COPS 3, problem 11; Bulirsch, Nerz, Pesch and von Stryk 1993",
        states=(f"distance ({units[0]})", f"height ({units[0]})", f"v_x ({units[1]})", f"v_y ({units[1]})"),
        controls=("lift coefficient",),
        initial=(0.0, 1000 / length, forward, upward),
        steps=100,
        duration=FreeDuration(100.0),
        dynamics=_glider(length, speed),
        terminal=lambda x: -x[0],
        bounds=([0.0], [1.4]),
        end=lambda x: [x[1] - 900 / length, x[2] - forward, x[3] - upward],
        reference=reference,
    )


HANG_GLIDER = _hang_glider(
    "hang-glider",
    100.0,
    10.0,
    ("100 m", "10 m/s"),
    Reference(-12.4773968047, published=-12.48, within=1e-3, publisher="COPS 3"),
)
HANG_GLIDER_METRES = _hang_glider(
    "hang-glider-metres",
    1.0,
    1.0,
    ("m", "m/s"),
    Reference(-1247.73968047, "IPOPT 3.14 by CasADi, in units of 100 m and 10 m/s, tol 1e-10", -1248.0, 1e-3, "COPS 3"),
)


def _shuttle(height: float, speed: float) -> Rate:
    """Flight over a sphere that does not turn, in units of so many feet and feet per second."""
    radius, attraction, mass = 20902900.0, 0.14076539e17, 203000 / 32.174

    def rates(x: Vector, u: Vector) -> Vector:
        above, fast, climb, heading = x[0] * height, x[2] * speed, x[3], x[4]
        attack, centre = u[0] * 180 / pi, radius + above
        pressure = 0.5 * 0.002378 * exp(-above / 23800) * fast**2 * 2690
        lift = (-0.20704 + 0.029244 * attack) * pressure
        drag = (0.07854 - 0.61592e-2 * attack + 0.621408e-3 * attack**2) * pressure
        gravity = attraction / centre**2
        turning = lift * sin(u[1]) / (mass * fast * cos(climb))
        return [
            fast * sin(climb) / height,
            fast / centre * cos(climb) * cos(heading),
            (-drag / mass - gravity * sin(climb)) / speed,
            lift * cos(u[1]) / (mass * fast) + cos(climb) * (fast / centre - gravity / fast),
            turning + fast / centre * cos(climb) * sin(heading) * sin(x[1]) / cos(x[1]),
        ]

    return rates


def _reentry(name: str, height: float, speed: float, units: tuple[str, str], reference: Reference) -> Case:
    return Case(
        name=name,
        title=f"the space shuttle's re-entry with the largest cross-range, in {units[0]} and {units[1]}",
        source="Betts 2010, section 6.1",
        states=(f"height ({units[0]})", "latitude (rad)", f"speed ({units[1]})", "climb (rad)", "azimuth (rad)"),
        controls=("angle of attack (rad)", "bank (rad)"),
        initial=(260000 / height, 0.0, 25600 / speed, radians(-1), radians(90)),
        steps=200,
        duration=FreeDuration(2000.0),
        dynamics=_shuttle(height, speed),
        terminal=lambda x: -x[1],
        bounds=([radians(-90), radians(-89)], [radians(90), radians(1)]),
        end=lambda x: [x[0] - 80000 / height, x[2] - 2500 / speed, x[3] - radians(-5)],
        reference=reference,
    )


_REENTERS = Reference(
    -0.595874169675,
    "IPOPT 3.14 by CasADi, from states on a line, tol 1e-10; from the default guess it fails",
    published=-radians(34.1412),
    within=1e-5,
    publisher="Betts: 34.1412°",
)
SHUTTLE = _reentry("shuttle", 1e5, 1e4, ("100 000 ft", "10 000 ft/s"), _REENTERS)
SHUTTLE_FEET = _reentry("shuttle-feet", 1.0, 1.0, ("ft", "ft/s"), _REENTERS)


def _rocket(x: Vector, u: Vector) -> Vector:
    height, speed, mass = x
    drag = 310 * speed**2 * exp(-500 * (height - 1))
    return [speed, (u[0] - drag) / mass - 1 / height**2, -2 * u[0]]


GODDARD = Case(
    name="goddard",
    title="the greatest height of Goddard's rocket, with a singular arc",
    source="COPS 3, problem 10; Goddard 1919",
    states=("height", "speed", "mass"),
    controls=("thrust",),
    initial=(1.0, 0.0, 1.0),
    steps=80,
    duration=FreeDuration(0.2),
    dynamics=_rocket,
    terminal=lambda x: -x[0],
    bounds=([0.0], [3.5]),
    end=lambda x: [x[2] - 0.6],
    reference=Reference(-1.01283679753, published=-1.01283, within=1e-5, publisher="COPS 3"),
)


def _planar(x: Vector, u: Vector) -> Vector:
    lift, turn = u[0] + u[1], (u[1] - u[0]) * 0.25 / 0.06
    return [x[3], x[4], x[5], -lift * sin(x[2]), lift * cos(x[2]) - 9.81, turn]


PLANAR_QUADROTOR = Case(
    name="planar-quadrotor",
    title="a quadrotor in a plane past two discs to hover 4 m away",
    source="Mellinger and Kumar 2011, in a plane; Tedrake, Underactuated Robotics",
    states=("x (m)", "z (m)", "tilt (rad)", "v_x (m/s)", "v_z (m/s)", "turning rate (rad/s)"),
    controls=("left thrust (N/kg)", "right thrust (N/kg)"),
    initial=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    steps=80,
    duration=4.0,
    dynamics=_planar,
    running=lambda x, u: 0.1 * squares(u, goal=(4.905, 4.905)) + 0.1 * x[5] ** 2,
    bounds=([0.0, 0.0], [10.0, 10.0]),
    path=lambda x, u: [
        0.6**2 - (x[0] - 1.2) ** 2 - (x[1] - 0.3) ** 2,
        0.6**2 - (x[0] - 2.8) ** 2 - (x[1] + 0.3) ** 2,
    ],
    end=lambda x: [x[0] - 4, *x[1:]],
    reference=Reference(0.145444130653),
)

FLIGHT = (
    ORBIT_RAISING,
    HANG_GLIDER,
    HANG_GLIDER_METRES,
    SHUTTLE,
    SHUTTLE_FEET,
    GODDARD,
    PLANAR_QUADROTOR,
)
