"""Draw README's figure from the records of a demo: python docs/figure.py runs/demo."""

import sys
from pathlib import Path

from subnetwork.figures.courses import courses
from subnetwork.figures.style import to_svg
from subnetwork.figures.training import accuracy_by_payload
from subnetwork.record import read_folder

if __name__ == "__main__":
    figure = accuracy_by_payload(courses(read_folder(Path(sys.argv[1])).values()))
    Path(__file__).with_name("images").joinpath("accuracy-by-payload.svg").write_text(
        to_svg(figure), encoding="utf-8"
    )
