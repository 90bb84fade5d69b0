"""Where the walls are, what the traveller is told, and what it can say."""

from functools import cache

ROWS = (
    "#############",
    "#.....#.....#",
    "###.#####.###",
    "###.#####.###",
    "###.#####.###",
    "###.......###",
    "######.######",
    "######.######",
    "######G######",
    "#############",
)
"""`.` is free, `#` a wall, `G` the goal. The layout is that of LMRL-Gym's double-T maze."""

Cell = tuple[int, int]
GOAL: Cell = (8, 6)
CELLS: tuple[Cell, ...] = tuple(
    (row, column) for row, line in enumerate(ROWS) for column, mark in enumerate(line) if mark == "."
)
"""Free cells but the goal, in reading order: the possible starts."""
MOVES: dict[str, tuple[int, int]] = {"UP": (-1, 0), "DOWN": (1, 0), "LEFT": (0, -1), "RIGHT": (0, 1)}
INTENTS = (*MOVES, "ABSTAIN")
ABSTAIN = len(MOVES)
AREAS = ("left arm", "right arm", "bar", "stem")
WORDINGS = {"UP": ("move up",), "DOWN": ("move down",), "LEFT": ("move left",), "RIGHT": ("move right",)}
STAY = "stay where you are"
SYSTEM_PROMPT = "you guide a traveller through a maze"


def after(cell: Cell, intent: int) -> Cell:
    """Where a move (an index into INTENTS) leads; walls and abstaining leave the traveller where it is."""
    if intent == ABSTAIN:
        return cell
    down, right = MOVES[INTENTS[intent]]
    there = (cell[0] + down, cell[1] + right)
    return cell if ROWS[there[0]][there[1]] == "#" else there


def area(cell: Cell) -> int:
    """Index into AREAS."""
    row, column = cell
    if row < 5:
        return 0 if column < 6 else 1
    return 2 if row == 5 else 3


@cache
def describe(cell: Cell) -> str:
    """What the traveller says in a cell: its position, the goal's, and the walls around it."""
    names = {"UP": "above", "DOWN": "below", "LEFT": "left", "RIGHT": "right"}
    walls = " ".join(names[name] for intent, name in enumerate(MOVES) if after(cell, intent) == cell) or "nowhere"
    return f"i am at {cell[0]} {cell[1]} the goal is at {GOAL[0]} {GOAL[1]} walls {walls}"


CELL_OF = {describe(cell): index for index, cell in enumerate(CELLS)}
"""Index into CELLS by description."""
