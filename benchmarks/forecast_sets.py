"""`recurra forecast` on the shared data sets, only file and column names changed: a table of MASE and
coverage.

    .venv/bin/python benchmarks/forecast_sets.py [SET ...]

Reads $RECURRA_DATA or ../shared/data. Each line is one run of the command; its folder stays under --out
(default: benchmarks-out), so a report can be opened afterwards. Rossmann's last 14 days have their sales
blanked first, as a user's file would look who knows next fortnight's promotions but not its sales.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

DATA = Path(os.environ.get("RECURRA_DATA", Path(__file__).parents[2] / "shared" / "data")) / "forecasting"
ROSSMANN = ["--known", "Open,Promo,SchoolHoliday", "--static", "StoreType,Assortment"]
WEATHER = ["--covariates", "DEWP,TEMP,PRES,cbwd,Iws,Is,Ir"]
SETS: dict[str, tuple[str, int, list[str]]] = {
    "airpassengers": ("airpassengers/airline-passengers.csv", 12, []),
    "shampoo": ("monthly_sales/shampoo.csv", 6, []),
    "car-sales": ("monthly_sales/monthly-car-sales.csv", 12, []),
    "sunspots": ("sunspots/monthly-sunspots.csv", 12, []),
    "melbourne": ("melbourne_temps/daily-min-temperatures.csv", 14, []),
    "covid19": ("covid19/daily_new_cases_a.csv", 14, ["--target", "US,United_Kingdom,Italy,Germany"]),
    "stocks-monthly": ("stocks/stocks_monthly_5tickers.csv", 6, ["--series", "symbol"]),
    "msft": ("stocks/msft_daily.csv.gz", 10, ["--target", "Close"]),
    "exchange-rate": ("exchange_rate/exchange_rate.csv.gz", 30, ["--target", "0,1,2,3,4,5,6,OT"]),
    "electricity": ("electricity_hourly/electricity_mean_client_hourly.csv.gz", 48, []),
    "beijing-pm25": ("beijing_pm25/pollution.csv.gz", 24, ["--target", "pm2.5", *WEATHER]),
    "rossmann": ("rossmann/stores_a.csv.gz", 14, ["--series", "Store", "--target", "Sales", *ROSSMANN]),
}
METHODS = ("LSTM", "naive", "seasonal naive", "drift", "ETS", "Theta")


def blank_last_days(source: Path, target: Path, days: int) -> None:
    """Rossmann with the sales of its last ``days`` days left out."""
    with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    at, when = header.index("Sales"), header.index("Date")
    future = set(sorted({row[when] for row in rows})[-days:])
    with open(target, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow([*row[:at], "", *row[at + 1 :]] if row[when] in future else row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("benchmarks-out"))
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sets if name not in SETS]
    if unknown:
        parser.error(f"no such set: {', '.join(unknown)}; there are {', '.join(SETS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = Path(sys.executable).with_name("recurra")
    print(
        "MASE               "
        + " ".join(f"{method:>14}" for method in METHODS)
        + "   in 80 %  origins  seconds"
    )
    for name in arguments.sets or SETS:
        place, horizon, options = SETS[name]
        source = DATA / place
        if name == "rossmann":
            source = arguments.out / "rossmann.csv"
            blank_last_days(DATA / place, source, horizon)
        out = arguments.out / name
        call = [str(command), "forecast", str(source), "--horizon", str(horizon), *options]
        call += ["--out", str(out), "--overwrite", "--quiet"]
        started = time.monotonic()
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name:18} {done.stderr.strip()}", flush=True)
            continue
        document = json.loads((out / "metrics.json").read_text("utf-8"))
        scores = document["scores"]
        row = " ".join(f"{scores[method]['MASE']:14.3f}" for method in METHODS)
        covered, windows = scores["LSTM"]["coverage_80"], document["backtest"]["windows"]
        seconds = time.monotonic() - started
        print(f"{name:18} {row} {covered:9.1%} {windows:8} {seconds:8.0f}", flush=True)


if __name__ == "__main__":
    main()
