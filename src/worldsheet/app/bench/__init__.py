"""Side-by-side measurements against autograd."""

from worldsheet.app.bench.command import bench

__all__ = ["bench"]
