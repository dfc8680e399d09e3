"""``docs/architecture.md``: its rooms are those of the package, in the order that imports keep to."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS, ROOT, blocks
from tests.test_architecture import ROOMS

PAGE = DOCS / "architecture.md"
PACKAGE = ROOT / "pipeline"


def test_rooms_are_the_folders_of_the_package() -> None:
    table = re.findall(r"^\| `(\w+)/` \| (.*?) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    rooms = [room for room, _ in table]
    assert set(rooms) == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == [room for room in ROOMS if room in rooms]
    for room, story in table:
        for file in re.findall(r"`(\w+\.py)`", story):
            assert (PACKAGE / room / file).is_file()


def test_drawing_of_the_rooms_is_in_their_order() -> None:
    (drawing,) = blocks(PAGE, "text")
    rooms, _, ground = drawing.strip().splitlines()
    assert rooms.split("  ◀─  ") == [room for room in ROOMS if room != "__init__"]
    for module in ground.removesuffix("…").split():
        assert (PACKAGE / f"{module}.py").is_file()


def test_flow_shows_every_room_that_has_a_story() -> None:
    (flow,) = blocks(PAGE, "mermaid")
    assert re.findall(r"<b>(\w+)/</b>", flow) == [
        room for room in ROOMS if room not in ("commands", "cli", "__init__")
    ]
