"""What a client saw: one line of JSON a case. The suite judges it; these programs only tell."""

import json


def case(name, call):
    """Reports what `call` answers, or what it raised."""
    try:
        seen = call()
    except Exception as error:
        seen = raised(error)
    print(json.dumps({"case": name} | seen), flush=True)


def raised(error):
    """An exception as a caller can tell it from others: its classes, nearest first, and its words."""
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    return {
        "raised": [kind.__name__ for kind in type(error).__mro__],
        "status": status if isinstance(status, int) else None,
        "message": str(error),
    }


def drained(pieces):
    """The texts of a stream up to its end or its failure. `pieces` is called to begin it."""
    seen = {"pieces": []}
    try:
        for piece in pieces():
            if piece:
                seen["pieces"].append(piece)
    except Exception as error:
        seen |= raised(error)
    return seen
