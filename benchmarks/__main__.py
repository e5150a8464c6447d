"""`python -m benchmarks`, from the root of the source tree: measure beside autograd and beside others."""

from benchmarks.command import bench

if __name__ == "__main__":
    bench(prog_name="python -m benchmarks")
