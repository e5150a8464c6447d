"""Problems of reactors: temperatures, feeds and catalysts."""

from worldsheet.control import RadauIIA
from worldsheet_lab.control.collection.case import Case, Reference
from worldsheet_lab.control.collection.scalars import Scalar, Vector, exp, squares

CATALYST = Case(
    name="catalyst-mixing",
    title="two catalysts mixed along a reactor for the most of the third substance",
    source="COPS 3, problem 14; von Stryk 1999",
    states=("first substance", "second substance"),
    controls=("share of the first catalyst",),
    initial=(1.0, 0.0),
    steps=100,
    duration=1.0,
    dynamics=lambda x, u: [u[0] * (10 * x[1] - x[0]), u[0] * (x[0] - 10 * x[1]) - (1 - u[0]) * x[1]],
    terminal=lambda x: x[0] + x[1] - 1,
    bounds=([0.0], [1.0]),
    reference=Reference(-0.0480556154712, published=-4.80556e-2, within=1e-3, publisher="COPS 3"),
)


def _stirred(x: Vector, u: Vector) -> Vector:
    rate = 300 * exp(-5 / x[1]) * x[0]
    return [(1 - x[0]) / 20 - rate, (0.3947 - x[1]) / 20 + rate - 1.95e-4 * u[0] * (x[1] - 0.3816)]


CSTR = Case(
    name="cstr",
    title="a stirred tank with cooling from one steady state to another, unstable one",
    source="Hicks and Ray 1971, in the numbers of Biegler 2010",
    states=("concentration", "temperature"),
    controls=("coolant",),
    initial=(0.1367, 0.7293),
    steps=100,
    duration=10.0,
    dynamics=_stirred,
    running=lambda x, u: 1e6 * (x[0] - 0.0944) ** 2 + 2e3 * (x[1] - 0.7766) ** 2 + 1e-3 * (u[0] - 340) ** 2,
    bounds=([0.0], [500.0]),
    reference=Reference(2925.19599806),
)


def _van_de_vusse(x: Vector, u: Vector) -> Vector:
    """Time in hours; a feed of 5.1 mol/l at 104.9 °C, a reactor of 10 l, a jacket of 5 kg."""
    first, second, warm, jacket = x
    feed, heat = u
    slow = 1.287e12 * exp(-9758.3 / (warm + 273.15))
    fast = 9.043e9 * exp(-8560 / (warm + 273.15)) * first**2
    released = 4.2 * slow * first - 11.0 * slow * second - 41.85 * fast
    through = 4032 * 0.215 * (jacket - warm)
    return [
        feed * (5.1 - first) - slow * first - fast,
        -feed * second + slow * (first - second),
        feed * (104.9 - warm) - released / (0.9342 * 3.01) + through / (0.9342 * 3.01 * 10),
        (heat - through) / (5.0 * 2.0),
    ]


VAN_DE_VUSSE = Case(
    name="van-de-vusse",
    title="van de Vusse's reactor brought to the steady state of the best yield",
    source="Klatt and Engell 1993; Chen, Kremling and Allgöwer 1995",
    states=("c_A (mol/l)", "c_B (mol/l)", "temperature (°C)", "jacket (°C)"),
    controls=("feed (1/h)", "heat (kJ/h)"),
    initial=(1.0, 0.5, 100.0, 100.0),
    steps=75,
    duration=1500 / 3600,
    dynamics=_van_de_vusse,
    running=lambda x, u: (
        squares(x, (0.2, 1.0, 0.5, 0.2), (2.1402, 1.0903, 114.19, 112.91)) + squares(u, (0.5, 5e-7), (14.19, -1113.5))
    ),
    bounds=([3.0, -9000.0], [35.0, 0.0]),
    reference=Reference(7.47025313269),
)


def _bioreactor(x: Vector, u: Vector) -> Vector:
    volume, cells, sugar, protein, inducer, shock, recovery = x
    half, added = 14.35 + sugar + sugar**2 / 111.5, 0.22 / (0.22 + inducer)
    growth = sugar / half * (shock + recovery * added)
    making = 0.233 * sugar / half * (0.0005 + inducer) / (0.022 + inducer)
    decay = 0.09 * inducer / (0.034 + inducer)
    thinner = (u[0] + u[1]) / volume
    return [
        u[0] + u[1],
        (growth - thinner) * cells,
        100 * u[0] / volume - thinner * sugar - growth * cells / 0.51,
        making * cells - thinner * protein,
        4 * u[1] / volume - thinner * inducer,
        -decay * shock,
        decay * (1 - recovery),
    ]


LEE_RAMIREZ = Case(
    name="lee-ramirez",
    title="a fed batch of bacteria that make the most protein for the least inducer",
    source="Lee and Ramirez 1994, in the form of Tholudur and Ramirez 1997",
    states=("volume", "cells", "sugar", "protein", "inducer", "shock factor", "recovery factor"),
    controls=("sugar feed", "inducer feed"),
    initial=(1.0, 0.1, 40.0, 0.0, 0.0, 1.0, 0.0),
    steps=100,
    duration=10.0,
    dynamics=_bioreactor,
    running=lambda x, u: 5 * u[1],
    terminal=lambda x: -x[0] * x[3],
    bounds=([0.0, 0.0], [1.0, 1.0]),
    path=lambda x, u: [-x[2], -1e-3 - x[4]],  # what no feed can break keeps a search where the rates mean something
    reference=Reference(-5.56789071868),
)


def _robertson(x: Vector, u: Vector) -> Vector:
    first, back, fast = 0.04 * u[0] * x[0], 1e4 * x[1] * x[2], 3e7 * x[1] ** 2
    return [back - first, first - back - fast, fast]


def _wanted(x: Vector, u: Vector) -> Scalar:
    return (x[2] - 0.3) ** 2 + 1e-3 * (u[0] - 1) ** 2


ROBERTSON = Case(
    name="robertson",
    title="Robertson's stiff kinetics, the first rate chosen so that 0.3 of the product is made",
    source="Robertson 1966, with a control of ours",
    states=("first substance", "second substance", "third substance"),
    controls=("first rate",),
    initial=(1.0, 0.0, 0.0),
    steps=80,
    duration=40.0,
    dynamics=_robertson,
    running=_wanted,
    bounds=([0.1], [3.0]),
    integrator=RadauIIA(),
    reference=Reference(0.16493736406),
)

CHEMISTRY = (CATALYST, CSTR, VAN_DE_VUSSE, LEE_RAMIREZ, ROBERTSON)
