"""Durations in words."""


def duration(seconds: float) -> str:
    """Two units of it: `5 s`, `3 min 05 s`, `2 h 10 min`, `4 d 06 h`."""
    whole = round(seconds)
    for unit, name, smaller, lesser in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller:02} {lesser}"
    return f"{whole} s"
