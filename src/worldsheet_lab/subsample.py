"""Rows of a long record that a picture or a file can do with."""


def subsample(count: int, most: int) -> list[int]:
    """At most `most` of `count` rows, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(row * (count - 1) / (most - 1)) for row in range(most)})
