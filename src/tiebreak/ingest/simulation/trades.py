"""What is dug for, and how: tables of the simulated world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METHODS = (
    "hand_dig",
    "backhoe",
    "trencher",
    "auger",
    "directional_bore",
    "vacuum",
    "blasting",
    "other",
)


@dataclass(frozen=True, slots=True)
class Trade:
    """A work type: its share, the methods it uses, its usual depth in feet and area in sqft."""

    name: str
    share: float
    methods: tuple[float, ...]  # one share a method
    depth_ft: float
    area_sqft: float


TRADES = (
    Trade("water", 0.11, (0.06, 0.62, 0.12, 0.02, 0.10, 0.06, 0.00, 0.02), 5.0, 900),
    Trade("sewer", 0.08, (0.03, 0.72, 0.08, 0.02, 0.08, 0.05, 0.00, 0.02), 8.0, 1_400),
    Trade("gas_main", 0.05, (0.04, 0.50, 0.12, 0.02, 0.22, 0.08, 0.00, 0.02), 4.5, 2_500),
    Trade("gas_service", 0.08, (0.18, 0.42, 0.10, 0.03, 0.17, 0.08, 0.00, 0.02), 3.0, 350),
    Trade("electric", 0.10, (0.10, 0.34, 0.20, 0.10, 0.20, 0.04, 0.00, 0.02), 3.5, 1_100),
    Trade("telecom", 0.09, (0.16, 0.14, 0.26, 0.04, 0.36, 0.02, 0.00, 0.02), 2.5, 1_800),
    Trade("fiber", 0.09, (0.08, 0.08, 0.20, 0.02, 0.58, 0.02, 0.00, 0.02), 3.0, 4_500),
    Trade("road", 0.07, (0.02, 0.78, 0.04, 0.02, 0.03, 0.02, 0.05, 0.04), 3.0, 9_000),
    Trade("fence", 0.09, (0.34, 0.06, 0.04, 0.52, 0.00, 0.00, 0.00, 0.04), 2.5, 700),
    Trade("landscaping", 0.10, (0.58, 0.22, 0.08, 0.06, 0.00, 0.00, 0.00, 0.06), 1.5, 1_200),
    Trade("sign", 0.03, (0.28, 0.08, 0.00, 0.60, 0.00, 0.02, 0.00, 0.02), 4.0, 60),
    Trade("pole", 0.04, (0.02, 0.12, 0.00, 0.80, 0.00, 0.04, 0.00, 0.02), 7.0, 50),
    Trade("drainage", 0.03, (0.08, 0.74, 0.12, 0.00, 0.02, 0.02, 0.00, 0.02), 5.5, 2_200),
    Trade("irrigation", 0.02, (0.30, 0.02, 0.64, 0.00, 0.00, 0.00, 0.00, 0.04), 1.0, 3_000),
    Trade("demolition", 0.02, (0.02, 0.86, 0.00, 0.00, 0.00, 0.00, 0.08, 0.04), 6.0, 4_000),
)

TRADE_NAMES = tuple(trade.name for trade in TRADES)
FIBER = TRADE_NAMES.index("fiber")

SHARES = np.array([trade.share for trade in TRADES]) / sum(trade.share for trade in TRADES)
METHOD_CUMULATIVE = np.cumsum([trade.methods for trade in TRADES], axis=1)
DEPTHS_FT = np.array([trade.depth_ft for trade in TRADES])
AREAS_SQFT = np.array([trade.area_sqft for trade in TRADES])

CALM_REMARKS = (
    "Mark the entire area described.",
    "Locate the whole front of the property.",
    "Mark both sides of the road.",
    "Work is along the rear lot line.",
    "Area is marked with flags at the corners.",
    "Locate a 20 foot radius of the pole.",
    "Mark from the meter to the street.",
    "Private road, mark to the end.",
)
ACCESS_REMARKS = (
    "Locked gate, call the caller before arriving.",
    "Dog in the yard, call ahead for access.",
    "Access only with an escort, call ahead.",
)
CREW_REMARKS = ("Crew is on site now.", "Crew is waiting on site.")
VAGUE_REMARKS = (
    "Exact limits to be agreed with the locator on site.",
    "See the map, limits may change.",
)
